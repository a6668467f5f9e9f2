"""How the published data sets are laid out: what a file's path says about it. Reads names only, no pixels.

Sources: LaPa (AAAI 2020), CelebAMask-HQ (CVPR 2020), Helen as relabelled by Smith et al. (CVPR 2013), Face Synthetics
(ICCV 2021), and folders of images and labels.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from dmlcsr.taxonomy import CELEBAMASK_HQ, FACE_SYNTHETICS, HELEN, LAPA, Taxonomy
from pipelines.config.base import SPLITS

IMAGE = "image"
LABEL = "label"
HELEN_MAPS = tuple(f"{number:02d}" for number in range(HELEN.num_classes))


class FileRole(NamedTuple):
    """Which sample a file belongs to, and as what: IMAGE, LABEL, or the name of one of the label's parts."""

    id: str
    role: str


class RawFormat(NamedTuple):
    """One format: how a path below the source is read, and what a user should have there."""

    place: Callable[[PurePosixPath], FileRole | None]
    expected: str
    taxonomy: Taxonomy | None = None
    roles: tuple[str, ...] = (LABEL,)
    """What the label may be made of."""
    all_parts_required: bool = True
    """Whether each role must be there: a missing part mask means that the part is absent."""


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


_PAIRS = "<split>/images/<name>.jpg or .png and <split>/labels/<name>.png, split one of train, val, test"
FORMATS: Mapping[str, RawFormat] = {
    "pairs": RawFormat(_in_splits, _PAIRS),
    "lapa": RawFormat(_in_splits, _PAIRS, LAPA),
    "face_synthetics": RawFormat(
        _flat, "a flat folder of <frame>.png or .jpg and <frame>_seg.png", FACE_SYNTHETICS
    ),
    "celebamask_hq": RawFormat(
        _celebamask_hq,
        "CelebA-HQ-img/<n>.jpg, CelebAMask-HQ-mask-anno/<folder>/<n>_<part>.png and CelebA-HQ-to-CelebA-mapping.txt",
        CELEBAMASK_HQ,
        CELEBAMASK_HQ.classes[1:],
        all_parts_required=False,
    ),
    "helen": RawFormat(
        _helen,
        "images/<name>.jpg, labels/<name>/<name>_lblXX.png (XX = 00 to 10) and exemplars.txt, tuning.txt, testing.txt",
        HELEN,
        HELEN_MAPS,
    ),
}  # fmt: skip
