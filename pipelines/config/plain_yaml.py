"""YAML as plain data: a document creates no objects, and without aliases a small file cannot expand to a large one."""

from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.events import AliasEvent

MAX_CHARACTERS = 1_000_000
"""Largest length of a document: a configuration has a few thousand characters, and parsing this many takes seconds."""


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(AliasEvent):
            # A few lines with aliases of aliases would expand to billions of values.
            raise ComposerError(None, None, "aliases are not allowed", self.get_mark())
        return super().compose_node(parent, index)


def load(text: str) -> Any:
    """The value of a document. Raises ValueError, with a message of one line, if it is not YAML or not plain data."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{len(text)} characters; at most {MAX_CHARACTERS} are read")
    try:
        return _Loader(text).get_single_data()
    except Exception as error:  # PyYAML's constructors raise many kinds of error for broken values
        raise ValueError(" ".join(str(error).split())) from error


def dump(values: Any) -> str:
    """Formats plain data as a YAML document; keys keep their order."""
    text: str = yaml.safe_dump(values, sort_keys=False)
    return text
