"""The raw formats: all that is special about one stands here, in one table. docs/extending.md tells how to add one.

Sources: LaPa (AAAI 2020), CelebAMask-HQ (CVPR 2020), Helen as relabelled by Smith et al. (CVPR 2013), Face Synthetics
(ICCV 2021), and folders of images and labels.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple, get_args

from dmlcsr.taxonomy import CELEBAMASK_HQ, FACE_SYNTHETICS, HELEN, LAPA, Taxonomy
from pipelines.config.base import SPLITS, Split
from pipelines.config.commands import IngestConfig, RawFormatName
from pipelines.ingest import label_files, splits
from pipelines.ingest.label_files import LABEL, Label

IMAGE = "image"


class FileRole(NamedTuple):
    """Which sample a file belongs to, and as what: IMAGE, or one of the label's parts."""

    id: str
    role: str


@dataclass(frozen=True, kw_only=True)
class RawFormat:
    """All that a format is. Nothing has a default: each format decides everything, or does not pass the type check."""

    locate: Callable[[PurePosixPath], FileRole | None]
    """What a path below the source says; None for files that are no business of ours. Reads names only, no pixels."""
    expected: str
    """What a user should have there, for the message that it is not."""
    taxonomy: Taxonomy | None
    """Classes of its labels; None where each user names them with `--taxonomy`."""
    parts: tuple[str, ...]
    """What a label may be made of; (LABEL,) where it is a single file of ids."""
    all_parts_required: bool
    """False where a missing part means that the face does not show it."""
    compose: Callable[[IngestConfig, Mapping[str, bytes]], Label]
    """(H, W) ids of the contents of a sample's parts. Raises BadSampleError where they make no label."""
    splits: Callable[[IngestConfig, Sequence[str]], Mapping[str, Split]]
    """The split of each id, without `--split-file`; ids that are not in the answer belong to none.

    Raises UserError where a file that says so is missing or damaged.
    """
    has_split_lists: bool
    """Whether a `<split>_list.txt` beside the folder `<split>` decides what is in that split."""


def _in_splits(path: PurePosixPath) -> FileRole | None:
    """`<split>/{images,labels}/<name>`; the id is `<split>/<name>`."""
    if len(path.parts) < 3 or path.parts[0] not in SPLITS or path.parts[1] not in ("images", "labels"):
        return None
    split, kind, *name = path.with_suffix("").parts
    return FileRole("/".join([split, *name]), LABEL if kind == "labels" else IMAGE)


def _flat(path: PurePosixPath) -> FileRole | None:
    """`<frame>.png` and `<frame>_seg.png`."""
    if len(path.parts) != 1:
        return None
    return FileRole(path.stem.removesuffix("_seg"), LABEL if path.stem.endswith("_seg") else IMAGE)


_PART = re.compile(r"(\d+)_(\w+)")


def _celebamask_hq(path: PurePosixPath) -> FileRole | None:
    """`CelebA-HQ-img/<n>.jpg` and `CelebAMask-HQ-mask-anno/<folder>/<n, five digits>_<part>.png`."""
    if path.parts[0] == "CelebA-HQ-img" and len(path.parts) == 2:
        return FileRole(path.stem.zfill(5), IMAGE)
    found = _PART.fullmatch(path.stem)
    if path.parts[0] != "CelebAMask-HQ-mask-anno" or found is None:
        return None
    return FileRole(found[1], found[2])


_MAP = re.compile(r"(.+)_lbl(\d\d)")


def _helen(path: PurePosixPath) -> FileRole | None:
    """`images/<n>.jpg` and `labels/<n>/<n>_lblXX.png`."""
    if path.parts[0] == "images" and len(path.parts) == 2:
        return FileRole(path.stem, IMAGE)
    found = _MAP.fullmatch(path.stem)
    if path.parts[0] != "labels" or found is None:
        return None
    return FileRole(found[1], found[2])


def _one_file(config: IngestConfig, files: Mapping[str, bytes]) -> Label:
    return label_files.single(files)


def _painted(config: IngestConfig, files: Mapping[str, bytes]) -> Label:
    return label_files.paint_parts(files, config.paint_order)


def _most_probable(config: IngestConfig, files: Mapping[str, bytes]) -> Label:
    return label_files.most_probable(files)


def _by_folders(config: IngestConfig, ids: Sequence[str]) -> Mapping[str, Split]:
    return splits.by_folders(ids)


def _by_shares(config: IngestConfig, ids: Sequence[str]) -> Mapping[str, Split]:
    return splits.by_shares(ids, config.splits, config.seed)


def _of_celeba(config: IngestConfig, ids: Sequence[str]) -> Mapping[str, Split]:
    return splits.celeba(config.source)


def _of_helen(config: IngestConfig, ids: Sequence[str]) -> Mapping[str, Split]:
    return splits.helen(config.source)


_PAIRS = "<split>/images/<name>.jpg or .png and <split>/labels/<name>.png, split one of train, val, test"
FORMATS: Mapping[RawFormatName, RawFormat] = {
    "pairs": RawFormat(
        locate=_in_splits,
        expected=_PAIRS,
        taxonomy=None,
        parts=(LABEL,),
        all_parts_required=True,
        compose=_one_file,
        splits=_by_folders,
        has_split_lists=True,
    ),
    "lapa": RawFormat(
        locate=_in_splits,
        expected=_PAIRS,
        taxonomy=LAPA,
        parts=(LABEL,),
        all_parts_required=True,
        compose=_one_file,
        splits=_by_folders,
        has_split_lists=True,
    ),
    "face_synthetics": RawFormat(
        locate=_flat,
        expected="a flat folder of <frame>.png or .jpg and <frame>_seg.png",
        taxonomy=FACE_SYNTHETICS,
        parts=(LABEL,),
        all_parts_required=True,
        compose=_one_file,
        splits=_by_shares,
        has_split_lists=False,
    ),
    "celebamask_hq": RawFormat(
        locate=_celebamask_hq,
        expected=f"CelebA-HQ-img/<n>.jpg, CelebAMask-HQ-mask-anno/<folder>/<n>_<part>.png and {splits.CELEBA_MAPPING}",
        taxonomy=CELEBAMASK_HQ,
        parts=CELEBAMASK_HQ.classes[1:],
        all_parts_required=False,
        compose=_painted,
        splits=_of_celeba,
        has_split_lists=False,
    ),
    "helen": RawFormat(
        locate=_helen,
        expected="images/<name>.jpg, labels/<name>/<name>_lblXX.png (XX = 00 to 10) and "
        f"{', '.join(splits.HELEN_LISTS)}",
        taxonomy=HELEN,
        parts=tuple(f"{number:02d}" for number in range(HELEN.num_classes)),
        all_parts_required=True,
        compose=_most_probable,
        splits=_of_helen,
        has_split_lists=False,
    ),
}
assert set(FORMATS) == set(get_args(RawFormatName)), "RawFormatName in pipelines/config/commands.py differs"
