"""Lists raw data sets: which image belongs to which label, id and split. Reads names only, no pixels."""

import hashlib
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
    samples, rejected = _match(config, files)
    if config.format == "pairs":
        samples, rejected = _apply_lists(config.source, samples, rejected)
    if not samples:
        raise UserError(f"{config.source} holds no {config.format} samples: expected {_EXPECTED[config.format]}")
    if config.split_file is not None:
        samples, unnamed = _split_by_file(samples, config.split_file)
        rejected += unnamed
    elif config.format == "face_synthetics":
        samples = _split_by_shares(samples, config.splits, config.seed)
    # The data set's order is a shuffle of its own, so that a row group holds no neighbours of the source.
    return Listing(sorted(samples, key=lambda sample: _rank(sample.id, config.seed)), rejected)


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
    images: dict[Key, list[str]] = {}
    labels: dict[Key, list[str]] = {}
    place = _place_flat if config.format == "face_synthetics" else _place_pair
    for file in files:
        key, is_label = place(PurePosixPath(file.removeprefix(config.source).lstrip("/")))
        if key is not None:
            (labels if is_label else images).setdefault(key, []).append(file)
    twice = {key for found in (images, labels) for key, names in found.items() if len(names) > 1}
    rejected = [
        Rejected(source=name, reason="duplicate_id", detail=f"several files have id {key[1]}")
        for found in (images, labels)
        for key, names in sorted(found.items())
        if len(names) > 1
        for name in names
    ]
    rejected += _unmatched(images, labels, "image_without_label") + _unmatched(labels, images, "label_without_image")
    pairs = (images.keys() & labels.keys()) - twice
    return [RawSample(name, split, images[split, name][0], labels[split, name][0]) for split, name in pairs], rejected


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


def _apply_lists(
    root: str, samples: list[RawSample], rejected: list[Rejected]
) -> tuple[list[RawSample], list[Rejected]]:
    """Where `<split>_list.txt` is there, the split is what its lines name and nothing else."""
    for split in SPLITS:
        uri = storage.join(root, f"{split}_list.txt")
        if storage.exists(uri):
            folder = storage.join(root, split)
            samples = [sample for sample in samples if sample.split != split] + _read_list(uri, folder, split)
            rejected = [sample for sample in rejected if not sample["source"].startswith(folder + "/")]
    return samples, rejected


def _read_list(uri: str, folder: str, split: Split) -> list[RawSample]:
    samples = {}
    for number, line in enumerate(storage.read_bytes(uri).decode(errors="replace").splitlines(), start=1):
        names = line.split()
        if not names:
            continue
        if len(names) != 2 or any(".." in PurePosixPath(name).parts for name in names):
            raise UserError(f"{uri}, line {number}: expected `images/x.jpg labels/x.png`, got {line[:80]!r}")
        image, label = (storage.join(folder, name) for name in names)
        name = f"{split}/{PurePosixPath(names[0]).with_suffix('').as_posix().removeprefix('images/')}"
        samples[name] = RawSample(name, split, image, label)
    return list(samples.values())


def _unmatched(these: Mapping[Key, list[str]], others: Iterable[Key], reason: str) -> list[Rejected]:
    missing = sorted(these.keys() - set(others))
    return [Rejected(source=these[key][0], reason=reason, detail=f"no partner for id {key[1]}") for key in missing]


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
