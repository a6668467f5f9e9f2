"""The splits of samples by folders and by published lists, and the hashes by which they are shuffled and divided.

An id that is not in a result has no split. Ids are in Unicode's composed form (NFC), whatever the form of a list.
"""

import hashlib
import io
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from pipelines import storage
from pipelines.config.base import SPLITS, Split
from pipelines.data.packing import printable
from pipelines.errors import UserError

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""The split of each name that folders, lists and files give to one."""
CELEBA_MAPPING, CELEBA_PARTITION = "CelebA-HQ-to-CelebA-mapping.txt", "list_eval_partition.txt"
CELEBA_FIRST_VAL, CELEBA_FIRST_TEST = 162770, 182637
"""Numbers of CelebA's first validation image and first test image, from 0."""
CELEBA_COUNTS = {"train": 24183, "val": 2993, "test": 2824}
"""Published number of images in each split of CelebAMask-HQ."""
HELEN_LISTS: Mapping[str, Split] = {"exemplars.txt": "train", "tuning.txt": "val", "testing.txt": "test"}


def composed(name: str) -> str:
    """The name in NFC: some file systems and archives store an accented letter as two characters (NFD)."""
    return unicodedata.normalize("NFC", name)


def rank(name: str, seed: int) -> bytes:
    """A sort key for a shuffle that only names and seed decide."""
    return hashlib.sha256(f"{seed}/{name}".encode(errors="backslashreplace")).digest()


def order(name: str, seed: int) -> int:
    """The first 64 bits of `rank`."""
    return int.from_bytes(rank(name, seed)[:8], "big")


def id_prefixes(sources: Sequence[str]) -> list[str]:
    """The start of all ids of each source: its base name, numbered if an earlier source has the same; one has none."""
    if len(sources) == 1:
        return [""]
    names = [printable(composed(PurePosixPath(source).name or "root")) for source in sources]
    return [f"{name}/" for name in storage.distinct_names(names)]


def by_folders(ids: Iterable[str]) -> dict[str, Split]:
    """The split of each id: the name of its first folder."""
    return {name: split for name in ids for split in SPLITS if name.startswith(f"{split}/")}


def by_first_folder(ids: Iterable[str]) -> dict[str, Split]:
    """The split of each id whose first folder is one of SPLIT_NAMES."""
    folders = {name: name.partition("/")[0] for name in ids if "/" in name}
    return {name: SPLIT_NAMES[folder] for name, folder in folders.items() if folder in SPLIT_NAMES}


def read_lines(uri: str) -> Iterator[tuple[int, str]]:
    """Yields the lines that are not blank, in NFC, with their numbers from 1."""
    text = io.TextIOWrapper(io.BytesIO(storage.read_bytes(uri)), "utf-8-sig", "replace")
    lines = (part for line in text for part in line.splitlines())
    for number, line in enumerate(lines, start=1):
        if shown := composed(line).strip():
            yield number, shown


def helen(source: str) -> dict[str, Split]:
    """Reads lines `<number> , <name>` of exemplars.txt, tuning.txt and testing.txt. An image in two lists has no split.

    Raises UserError if a list is missing or damaged.
    """
    found: dict[str, set[Split]] = {}
    for file, split in HELEN_LISTS.items():
        uri = storage.join(source, file)
        for number, line in read_lines(uri):
            _, comma, name = line.partition(",")
            if not comma or not name.strip():
                raise UserError(f"{uri}, line {number}: expected `<number> , <name>`, got {line[:80]!r}")
            found.setdefault(name.strip(), set()).add(split)
    return {name: splits.pop() for name, splits in found.items() if len(splits) == 1}


def celeba(source: str) -> dict[str, Split]:
    """The official split: each image has the split of the CelebA image that it was made from.

    Raises UserError if a file is missing or damaged, or if the counts of a full set are not the published ones.
    """
    mapping = storage.join(source, CELEBA_MAPPING)
    if not storage.exists(mapping):
        raise UserError(f"{mapping} is missing: it decides the official split; add it, or give --split-file")
    partition = _celeba_partition(storage.join(source, CELEBA_PARTITION))
    lines = list(read_lines(mapping))
    columns = {name: position for position, name in enumerate(lines[0][1].split())} if lines else {}
    splits: dict[str, Split] = {}
    for number, line in lines[1:]:
        try:
            values = line.split()
            index, original = int(values[columns["idx"]]), int(values[columns["orig_idx"]])
            name = values[columns["orig_file"]]
            splits[f"{index:05d}"] = partition[name] if partition else _celeba_split(original)
        except (LookupError, ValueError) as error:
            raise UserError(f"{mapping}, line {number}: cannot be read ({error!r}): {line[:80]!r}") from error
    counts = Counter(splits.values())
    if len(splits) == sum(CELEBA_COUNTS.values()) and counts != CELEBA_COUNTS:
        raise UserError(f"{mapping} is damaged: it gives {dict(counts)}, but the published split has {CELEBA_COUNTS}")
    return splits


def _celeba_split(number: int) -> Split:
    return SPLITS[(number >= CELEBA_FIRST_VAL) + (number >= CELEBA_FIRST_TEST)]


def _celeba_partition(uri: str) -> dict[str, Split]:
    """Reads lines `<file> <0|1|2>` of CelebA's own list; returns {} if there is no such file."""
    if not storage.exists(uri):
        return {}
    try:
        return {line.split()[0]: SPLITS[int(line.split()[1])] for _, line in read_lines(uri)}
    except (LookupError, ValueError) as error:
        raise UserError(f"{uri} is damaged: expected lines `<file> <0|1|2>`") from error
