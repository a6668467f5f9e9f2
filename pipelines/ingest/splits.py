"""Assigns samples to splits: by folder, by published lists, by a split file, or by shares.

An id that is not in a result has no split. Ids are in Unicode's composed form (NFC), whatever the form of a list.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

from pipelines import storage
from pipelines.config.base import SPLITS, Split
from pipelines.config.commands import SplitShares
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


def by_folders(ids: Iterable[str]) -> dict[str, Split]:
    """The split of each id: the name of its first folder."""
    return {name: split for name in ids for split in SPLITS if name.startswith(f"{split}/")}


def by_first_folder(ids: Iterable[str]) -> dict[str, Split]:
    """The split of each id whose first folder is one of SPLIT_NAMES."""
    folders = {name: name.partition("/")[0] for name in ids if "/" in name}
    return {name: SPLIT_NAMES[folder] for name, folder in folders.items() if folder in SPLIT_NAMES}


def by_shares(ids: Iterable[str], shares: SplitShares, seed: int) -> dict[str, Split]:
    """Splits the ids by exact shares, in an order by hash, so that the result depends only on ids, shares and seed."""
    parts = [shares.get(split, 0.0) for split in SPLITS]
    ordered = sorted(ids, key=lambda name: rank(name, seed + 1))
    bounds = [round(len(ordered) * sum(parts[: i + 1]) / sum(parts)) for i in range(3)]
    return {
        name: next(split for split, bound in zip(SPLITS, bounds, strict=True) if position < bound)
        for position, name in enumerate(ordered)
    }


def read_lines(uri: str) -> Iterable[tuple[int, str]]:
    """Reads the lines that are not blank, in NFC, with their numbers from 1."""
    text = composed(storage.read_bytes(uri).decode("utf-8-sig", errors="replace"))
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def from_file(uri: str) -> dict[str, Split]:
    """Reads lines `<id> <train|val|test>`. Raises UserError if the file is missing or damaged."""
    splits: dict[str, Split] = {}
    for number, line in read_lines(uri):
        name, _, split = line.rpartition(" ")
        if split not in SPLIT_NAMES:
            raise UserError(f"{uri}, line {number}: expected `<id> <train|val|test>`, got {line[:80]!r}")
        splits[name.strip()] = SPLIT_NAMES[split]
    return splits


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
