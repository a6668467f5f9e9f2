"""The raw formats: one table holds everything that is specific to a format. docs/extending.md says how to add one.

Sources: LaPa (AAAI 2020), CelebAMask-HQ (CVPR 2020), Helen as relabelled by Smith et al. (CVPR 2013), Face Synthetics
(ICCV 2021), and folders of images and labels.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple, get_args

from dmlcsr.taxonomy import CELEBAMASK_HQ, FACE_SYNTHETICS, HELEN, LAPA, Taxonomy
from pipelines.config.base import Split
from pipelines.config.commands import IngestConfig, RawFormatName
from pipelines.ingest import label_files, splits
from pipelines.ingest.label_files import LABEL, Label

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jfif")
IMAGE_SUFFIXES = (*JPEG_SUFFIXES, ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
IMAGE = "image"
EITHER = "image or label"
"""Role of a file in a folder that may hold both kinds. `pairing.py` decides by the names beside it."""


class FileRole(NamedTuple):
    """The sample that a file belongs to, and the role of the file: IMAGE, one of the label's parts, or EITHER."""

    id: str
    role: str


@dataclass(frozen=True, kw_only=True)
class RawFormat:
    """The definition of a raw format. No field has a default, so that the type check finds a field that is left out."""

    locate: Callable[[PurePosixPath], FileRole | None]
    """Returns sample and role of a path below the source; None if the file is ignored. Reads names only, no pixels."""
    expected: str
    """The files that a source of this format holds, for the error message if no sample is found."""
    taxonomy: Taxonomy | None
    """Classes of its labels; None if the user names them with `--taxonomy`."""
    parts: tuple[str, ...]
    """Names of the parts that a label may be made of; (LABEL,) if a label is a single file of ids.

    () if the faces have no labels. Then `compose` is never called.
    """
    all_parts_required: bool
    """True if a sample that lacks a part is rejected; False if a missing part means that the face does not show it."""
    compose: Callable[[IngestConfig, Mapping[str, bytes]], Label]
    """Makes (H, W) ids from the file contents of a sample's parts. Raises BadSampleError if they make no label."""
    splits: Callable[[IngestConfig, str, Sequence[str]], Mapping[str, Split]]
    """Returns the splits that some ids of one source have by their names or by lists; used if there is no
    `--split-file`. It is called for some of the ids at a time, so the split of one may not depend on the others.

    Raises UserError if a file that defines the splits is missing or damaged.
    """
    shares_otherwise: bool
    """True if a source of which `splits` names no sample is divided by `--splits`. Otherwise, and if it names only
    some of them, the others have no split."""
    list_files: tuple[str, ...]
    """Names of the files at the top of a source that `splits` reads."""
    has_split_lists: bool
    """True if a file `<split>_list.txt` beside the folder `<split>` may list the samples of that split."""


_KINDS = {"images": IMAGE, "labels": LABEL}


def _pairs(path: PurePosixPath) -> FileRole | None:
    """Locates `{images,labels}/<name>`, and `<name>` in a folder of both; with or without a folder `<split>` above.

    The id is `<split>/<name>` with the split's own name, or `<name>`.
    """
    *folders, name = path.with_suffix("").parts
    depth = int(bool(folders) and folders[0] in splits.SPLIT_NAMES)
    if len(folders) == depth:
        role = EITHER
    elif folders[depth] in _KINDS:
        role = _KINDS[folders.pop(depth)]
    else:
        return None
    if folders and folders[0] in splits.SPLIT_NAMES:
        folders[0] = splits.SPLIT_NAMES[folders[0]]
    return FileRole("/".join([*folders, name]), role)


def _flat(path: PurePosixPath) -> FileRole | None:
    """Locates `<frame>.png` and `<frame>_seg.png`; the id is `<frame>`."""
    if len(path.parts) != 1:
        return None
    return FileRole(path.stem.removesuffix("_seg"), LABEL if path.stem.endswith("_seg") else IMAGE)


_PART = re.compile(r"(\d+)_(\w+)")


def _celebamask_hq(path: PurePosixPath) -> FileRole | None:
    """Locates `CelebA-HQ-img/<n>.jpg` and `CelebAMask-HQ-mask-anno/<folder>/<n, five digits>_<part>.png`.

    The id is n in five digits.
    """
    if path.parts[0] == "CelebA-HQ-img" and len(path.parts) == 2:
        return FileRole(path.stem.zfill(5), IMAGE)
    found = _PART.fullmatch(path.stem)
    if path.parts[0] != "CelebAMask-HQ-mask-anno" or found is None:
        return None
    return FileRole(found[1], found[2])


_MAP = re.compile(r"(.+)_lbl(\d\d)")


def _helen(path: PurePosixPath) -> FileRole | None:
    """Locates `images/<n>.jpg` and `labels/<n>/<n>_lblXX.png`; the id is `<n>`."""
    if path.parts[0] == "images" and len(path.parts) == 2:
        return FileRole(path.stem, IMAGE)
    found = _MAP.fullmatch(path.stem)
    if path.parts[0] != "labels" or found is None:
        return None
    return FileRole(found[1], found[2])


def _no_file(path: PurePosixPath) -> None:
    """Locates nothing: the samples of Parquet files are rows, which `parquet_source` lists."""


def _any_image(path: PurePosixPath) -> FileRole:
    """Locates an image in any folder; the id is its path without the suffix."""
    return FileRole(path.with_suffix("").as_posix(), IMAGE)


def _one_file(config: IngestConfig, files: Mapping[str, bytes]) -> Label:
    return label_files.single(files)


def _painted(config: IngestConfig, files: Mapping[str, bytes]) -> Label:
    return label_files.paint_parts(files, config.paint_order)


def _most_probable(config: IngestConfig, files: Mapping[str, bytes]) -> Label:
    return label_files.most_probable(files)


def _by_folders(config: IngestConfig, source: str, ids: Sequence[str]) -> Mapping[str, Split]:
    return splits.by_folders(ids)


def _by_named_folders(config: IngestConfig, source: str, ids: Sequence[str]) -> Mapping[str, Split]:
    return splits.by_first_folder(ids)


def _by_no_name(config: IngestConfig, source: str, ids: Sequence[str]) -> Mapping[str, Split]:
    return {}


def _of_celeba(config: IngestConfig, source: str, ids: Sequence[str]) -> Mapping[str, Split]:
    return splits.celeba(source)


def _of_helen(config: IngestConfig, source: str, ids: Sequence[str]) -> Mapping[str, Split]:
    return splits.helen(source)


_PAIRS = (
    "images/<name>.jpg or .png and labels/<name>.png, or <name>.jpg and <name>_label.png in one folder, either of them "
    "in folders train, val and test or without"
)
FORMATS: Mapping[RawFormatName, RawFormat] = {
    "pairs": RawFormat(
        locate=_pairs,
        expected=_PAIRS,
        taxonomy=None,
        parts=(LABEL,),
        all_parts_required=True,
        compose=_one_file,
        splits=_by_folders,
        shares_otherwise=True,
        list_files=(),
        has_split_lists=True,
    ),
    "lapa": RawFormat(
        locate=_pairs,
        expected=_PAIRS,
        taxonomy=LAPA,
        parts=(LABEL,),
        all_parts_required=True,
        compose=_one_file,
        splits=_by_folders,
        shares_otherwise=True,
        list_files=(),
        has_split_lists=True,
    ),
    "face_synthetics": RawFormat(
        locate=_flat,
        expected="a flat folder of <frame>.png or .jpg and <frame>_seg.png",
        taxonomy=FACE_SYNTHETICS,
        parts=(LABEL,),
        all_parts_required=True,
        compose=_one_file,
        splits=_by_no_name,
        shares_otherwise=True,
        list_files=(),
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
        shares_otherwise=False,
        list_files=(splits.CELEBA_MAPPING, splits.CELEBA_PARTITION),
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
        shares_otherwise=False,
        list_files=tuple(splits.HELEN_LISTS),
        has_split_lists=False,
    ),
    "images": RawFormat(
        locate=_any_image,
        expected="image files in any folders; a first folder train, val, valid or test names the split",
        taxonomy=None,
        parts=(),
        all_parts_required=False,
        compose=_one_file,
        splits=_by_named_folders,
        shares_otherwise=True,
        list_files=(),
        has_split_lists=False,
    ),
    "parquet": RawFormat(
        locate=_no_file,
        expected="<name>.parquet, in any folders",
        taxonomy=None,
        parts=(LABEL,),
        all_parts_required=True,
        compose=_one_file,
        splits=_by_no_name,
        shares_otherwise=True,
        list_files=(),
        has_split_lists=False,
    ),
}
assert set(FORMATS) == set(get_args(RawFormatName)), "RawFormatName in pipelines/config/commands.py differs"
