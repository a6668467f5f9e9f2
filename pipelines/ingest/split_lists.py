"""Reads `<split>_list.txt`: lines `images/x.jpg labels/x.png` that limit a split to the pairs that they name."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from pipelines import storage
from pipelines.config.base import SPLITS, Split
from pipelines.data.packing import SampleProblem
from pipelines.ingest.formats import IMAGE_SUFFIXES
from pipelines.ingest.splits import SPLIT_NAMES, composed, read_lines


class ListedPair(NamedTuple):
    """A sample of a list: its id, and the URIs of its image and its label."""

    id: str
    image: str
    label: str


class SplitList(NamedTuple):
    """The pairs of a split that has lists, the bad lines, the URIs of the lists, and the folder that they limit.

    `folder` is that of the split below the source, or empty for a source without a folder for this split.
    """

    pairs: list[ListedPair]
    rejected: list[SampleProblem]
    uris: list[str]
    folder: str


def folder_of(root: str, file: str) -> str:
    """The folder of a split that a file of the source lies in; empty if it is in none."""
    top = file.removeprefix(root).lstrip("/").partition("/")[0]
    return top if top in SPLIT_NAMES else ""


def list_uris(root: str) -> list[str]:
    """The lists at the top of a source."""
    candidates = [storage.join(root, f"{name}_list.txt") for name in SPLIT_NAMES]
    with storage.prefetched(candidates):
        return [uri for uri in candidates if storage.exists(uri)]


def read_lists(root: str, files: Sequence[str], uris: Sequence[str]) -> list[SplitList]:
    """Reads the lists `uris` of a source, of which `files` are all files."""
    lists = {uri.removesuffix("_list.txt").rpartition("/")[2]: uri for uri in uris}
    folders = {folder_of(root, file) for file in files}
    known = {composed(file): file for file in files}
    found = []
    for split in SPLITS:
        names = [name for name in SPLIT_NAMES if SPLIT_NAMES[name] == split]
        of_split = {name: lists[name] for name in names if name in lists}
        if of_split:
            folder = next((name for name in (*of_split, *names) if name in folders), "")
            prefix = storage.join(root, folder) + "/" if folder else storage.join(root, "")
            read = _read(list(of_split.values()), prefix, split, known)
            found.append(SplitList(*read, list(of_split.values()), folder))
    return found


def _read(
    uris: Sequence[str], prefix: str, split: Split, known: Mapping[str, str]
) -> tuple[list[ListedPair], list[SampleProblem]]:
    """Returns the pairs and the bad lines. A pair that occurs twice is one sample."""
    pairs: dict[str, ListedPair] = {}
    rejected = []
    for uri in uris:
        for number, line in read_lines(uri):
            names = cut_line(line, prefix, known)
            if names is None or any(map(is_bad, names)):
                detail = f"expected `images/x.jpg labels/x.png`, got {line[:80]!r}"
                rejected.append(SampleProblem(source=f"{uri}:{number}", reason="bad_line", detail=detail))
                continue
            image, label = (_on_storage(name, prefix, known) for name in names)
            pair = ListedPair(f"{split}/{names[0].with_suffix('').as_posix().removeprefix('images/')}", image, label)
            if pairs.setdefault(pair.id, pair) != pair:
                detail = f"id {pair.id} was listed before with other files"
                rejected.append(SampleProblem(source=f"{uri}:{number}", reason="duplicate_id", detail=detail))
    return list(pairs.values()), rejected


_SUFFIX = "|".join(map(re.escape, IMAGE_SUFFIXES))
_CUT = re.compile(rf"(?:{_SUFFIX})(\s+)", re.IGNORECASE)


def cut_line(line: str, prefix: str, known: Mapping[str, str]) -> tuple[PurePosixPath, PurePosixPath] | None:
    """The two names of a line. Each may hold spaces and ends with an image suffix.

    If a line can be cut in several ways, the way that gives two known files is right. Returns None if no way or more
    than one is left.
    """
    if not line.lower().endswith(IMAGE_SUFFIXES):
        return None
    cuts = [(PurePosixPath(line[: cut.start(1)]), PurePosixPath(line[cut.end() :])) for cut in _CUT.finditer(line)]
    if len(cuts) > 1:
        cuts = [cut for cut in cuts if all(composed(f"{prefix}{name}") in known for name in cut)]
    return cuts[0] if len(cuts) == 1 else None


def _on_storage(name: PurePosixPath, prefix: str, known: Mapping[str, str]) -> str:
    """The URI as storage spells it, which may be in another Unicode form than the line."""
    return known.get(composed(f"{prefix}{name}"), f"{prefix}{name}")


def is_bad(path: PurePosixPath) -> bool:
    """True if a name could lead out of a folder, or holds characters that no table or terminal can show."""
    return ".." in path.parts or not str(path).isprintable()
