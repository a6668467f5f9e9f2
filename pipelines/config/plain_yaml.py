"""YAML as plain data: nothing in it makes an object or stands for more than it is long."""

from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.events import AliasEvent

MAX_CHARACTERS = 1_000_000


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(AliasEvent):
            # Aliases of aliases: a few lines would stand for billions of values.
            raise ComposerError(None, None, "aliases are not allowed", self.get_mark())
        return super().compose_node(parent, index)


def load(text: str) -> Any:
    """The value of a document. Raises ValueError, on one line, where it is no YAML, or not plain."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{len(text)} characters; at most {MAX_CHARACTERS} are read")
    try:
        return _Loader(text).get_single_data()
    except Exception as error:  # PyYAML's constructors raise many kinds of error for broken values
        raise ValueError(" ".join(str(error).split())) from error


def dump(values: Any) -> str:
    """Such a document."""
    text: str = yaml.safe_dump(values, sort_keys=False)
    return text
