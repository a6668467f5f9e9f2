"""Kinds of files, by suffix, for what is said about a source."""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from pipelines.data.packing import printable


def by_kind(files: Iterable[str]) -> dict[str, list[str]]:
    """The files by suffix, the most frequent first. A suffix that is a number or a long text is no kind of its own."""
    kinds: dict[str, list[str]] = {}
    for file in files:
        suffix = PurePosixPath(file).suffix.lower()
        is_kind = re.fullmatch(r"\.[0-9]?[a-z][a-z0-9]{0,8}", suffix)
        kinds.setdefault(suffix if is_kind else "other" if suffix else "no suffix", []).append(file)
    return dict(sorted(kinds.items(), key=lambda item: -len(item[1])))


def in_words(names: Sequence[str]) -> str:
    """The kinds of files in a source and a few of their names, for the message about a wrong folder."""
    if not names:
        return "nothing"
    kinds = [f"{len(of_kind)} {kind}" for kind, of_kind in by_kind(names).items()]
    return f"{', '.join(kinds[:4])} (such as {printable(', '.join(names[:3]))})"
