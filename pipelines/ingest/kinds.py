"""Kinds of files, by suffix, for what is said about a source. Names are counted, not kept."""

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from pipelines.data.packing import printable

Counted = Mapping[str, Sequence[int | str]]
"""[number of files, the first of their names] by kind, as JSON holds it."""


class Kinds:
    """The number of files of each kind, and the first name of each."""

    def __init__(self, files: Iterable[str] = ()) -> None:
        self._found: dict[str, tuple[int, str]] = {}
        for file in files:
            self.add(file)

    def add(self, file: str) -> None:
        self._add(kind_of(suffix_of(file)), 1, file)

    def merge(self, counted: Counted) -> None:
        """Adds files that were counted elsewhere."""
        for kind, (count, first) in counted.items():
            self._add(kind, int(count), str(first))

    def _add(self, kind: str, count: int, file: str) -> None:
        before, first = self._found.get(kind, (0, file))
        self._found[kind] = (before + count, min(first, file))

    def counted(self) -> dict[str, tuple[int, str]]:
        """The files by kind, the most frequent first."""
        return dict(sorted(self._found.items(), key=lambda item: (-item[1][0], item[0])))

    def counts(self) -> dict[str, int]:
        """The number of files by kind, the most frequent first."""
        return {kind: count for kind, (count, _) in self.counted().items()}

    def with_examples(self) -> str:
        """The kinds in words, with a file of each; empty if there are none."""
        return ", ".join(
            f"{count} {kind} (such as {printable(file)})" for kind, (count, file) in self.counted().items()
        )


def suffix_of(file: str) -> str:
    """The suffix as `PurePath.suffix` gives it, in a tenth of the time."""
    suffix = posixpath.splitext(file)[1]
    return "" if suffix == "." else suffix


@lru_cache(maxsize=1024)
def kind_of(suffix: str) -> str:
    """The kind of the files with this suffix. One that is a number or a long text is no kind of its own."""
    suffix = suffix.lower()
    is_kind = re.fullmatch(r"\.[0-9]?[a-z][a-z0-9]{0,8}", suffix)
    return suffix if is_kind else "other" if suffix else "no suffix"


def in_words(kinds: Kinds, first: Sequence[str]) -> str:
    """The kinds of files in a source and a few of their names, for the message about a wrong folder."""
    if not first:
        return "nothing"
    shown = [f"{count} {kind}" for kind, count in kinds.counts().items()]
    return f"{', '.join(shown[:4])} (such as {printable(', '.join(first))})"
