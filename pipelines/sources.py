"""Lists raw data sets: which image belongs to which label, id and split. Reads names only, no pixels."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from pipelines import storage
from pipelines.config import IngestConfig, Split, SplitShares
from pipelines.dataset import SPLITS
from pipelines.errors import UserError
from pipelines.packing import Rejected

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


Key = tuple[Split, str]
"""Split and id: what an image and its label have in common."""


class RawSample(NamedTuple):
    """One face before packing; `image` and `label` are URIs."""

    id: str
    split: Split
    image: str
    label: str


class Listing(NamedTuple):
    """What a source holds; `rejected` are files without a partner and ids that occur twice."""

    samples: list[RawSample]
    rejected: list[Rejected]


def list_source(config: IngestConfig) -> Listing:
    """All samples of the source, with their splits, in an order that only the seed decides.

    Raises UserError where the folder does not look like the format at all.
    """
    files = list_images(config.source)
    pairs, rejected = _match(config, files)
    if not pairs:
        raise UserError(f"{config.source} holds no {config.format} samples: expected {_EXPECTED[config.format]}")
    samples, twice = _drop_duplicates(pairs)
    if config.split_file is not None:
        samples, unnamed = _split_by_file(samples, config.split_file)
        rejected += unnamed
    elif config.format == "face_synthetics":
        samples = _split_by_shares(samples, config.splits, config.seed)
    # The data set's order is a shuffle of its own, so that a row group holds no neighbours of the source.
    return Listing(sorted(samples, key=lambda sample: _rank(sample.id, config.seed)), rejected + twice)


_EXPECTED = {
    "face_synthetics": "a flat folder of <frame>.png or .jpg and <frame>_seg.png",
    "pairs": "<split>/images/<name>.jpg or .png and <split>/labels/<name>.png, split one of train, val, test",
}


def list_images(root: str) -> list[str]:
    """URIs of all image files below `root`, sorted. Raises UserError where it does not exist."""
    fs, path = storage.filesystem(root)
    with storage.user_errors("list", root):
        if not fs.exists(path):
            raise FileNotFoundError(path)
        found = fs.find(path)
    prefix = "s3://" if root.startswith("s3://") else ""
    return [prefix + name for name in sorted(found) if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]


def _match(config: IngestConfig, files: Sequence[str]) -> tuple[list[RawSample], list[Rejected]]:
    images: dict[Key, str] = {}
    labels: dict[Key, str] = {}
    place = _place_flat if config.format == "face_synthetics" else _place_pair
    for file in files:
        key, is_label = place(PurePosixPath(file.removeprefix(config.source).lstrip("/")))
        if key is not None:
            (labels if is_label else images).setdefault(key, file)
    samples = [
        RawSample(name, split, images[split, name], labels[split, name]) for split, name in images.keys() & labels
    ]
    return samples, [
        *_unmatched(images, labels, "image_without_label"),
        *_unmatched(labels, images, "label_without_image"),
    ]


def _place_flat(path: PurePosixPath) -> tuple[Key | None, bool]:
    if len(path.parts) != 1:
        return None, False
    return ("train", path.stem.removesuffix("_seg")), path.stem.endswith("_seg")


def _place_pair(path: PurePosixPath) -> tuple[Key | None, bool]:
    folder, kind, *name = path.with_suffix("").parts if len(path.parts) >= 3 else ("", "", "")
    split = _SPLIT_OF.get(folder)
    if split is None or kind not in ("images", "labels"):
        return None, False
    return (split, "/".join([split, *name])), kind == "labels"


_SPLIT_OF: Mapping[str, Split] = {split: split for split in SPLITS}


def _unmatched(these: Mapping[Key, str], others: Iterable[Key], reason: str) -> list[Rejected]:
    missing = sorted(these.keys() - set(others))
    return [Rejected(source=these[key], reason=reason, detail=f"no partner for id {key[1]}") for key in missing]


def _drop_duplicates(samples: Sequence[RawSample]) -> tuple[list[RawSample], list[Rejected]]:
    counts = Counter(sample.id for sample in samples)
    twice = [
        Rejected(
            source=sample.image,
            reason="duplicate_id",
            detail=f"{counts[sample.id]} samples have id {sample.id}",
        )
        for sample in samples
        if counts[sample.id] > 1
    ]
    return [sample for sample in samples if counts[sample.id] == 1], twice


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def _split_by_shares(samples: Sequence[RawSample], shares: SplitShares, seed: int) -> list[RawSample]:
    """Exact shares of a shuffle by hash, so that the split depends on ids and seed alone."""
    parts = [shares.get(split, 0.0) for split in SPLITS]
    ordered = sorted(samples, key=lambda sample: _rank(sample.id, seed + 1))
    bounds = [round(len(ordered) * sum(parts[: i + 1]) / sum(parts)) for i in range(3)]
    return [
        sample._replace(split=next(split for split, bound in zip(SPLITS, bounds, strict=True) if position < bound))
        for position, sample in enumerate(ordered)
    ]


def _split_by_file(samples: Sequence[RawSample], uri: str) -> tuple[list[RawSample], list[Rejected]]:
    splits: dict[str, Split] = {}
    for number, line in enumerate(storage.read_bytes(uri).decode(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, folder = line.strip().rpartition(" ")
        if folder not in _SPLIT_OF:
            raise UserError(f"{uri}, line {number}: expected `<id> <train|val|test>`, got {line.strip()[:80]!r}")
        splits[name.strip()] = _SPLIT_OF[folder]
    named = [sample._replace(split=splits[sample.id]) for sample in samples if sample.id in splits]
    rejected = [
        Rejected(source=sample.image, reason="not_in_split_file", detail=f"id {sample.id} has no line in {uri}")
        for sample in samples
        if sample.id not in splits
    ]
    return named, rejected
