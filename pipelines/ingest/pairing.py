"""Pairs images with labels whose names have a suffix: `x.jpg` or `x_image.jpg` with `x_mask.png`, in one folder or two.

Names are ids: paths without the folders `images` and `labels` and without the suffix of the file format.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from pipelines.ingest.formats import EITHER, IMAGE, JPEG_SUFFIXES
from pipelines.ingest.label_files import LABEL
from pipelines.ingest.splits import composed

LABEL_SUFFIXES = ("_label", "_mask", "_seg")
IMAGE_SUFFIX = "_image"
Names = Mapping[str, Sequence[str]]
"""The files of each name."""
Roles = dict[str, list[str]]
"""The files of a sample by role."""


class Pairs(NamedTuple):
    """Files by id and role, with and without a partner, and the folders of both kinds that hold a pair.

    Files without a partner in a folder that may be of both kinds have the role EITHER.
    """

    groups: list[tuple[str, Roles]]
    mixed_folders: set[str]


def suffixes_of(label_suffix: str | None) -> tuple[str, ...]:
    """The suffixes of labels, the given one first."""
    return (*([composed(label_suffix)] if label_suffix else ()), *LABEL_SUFFIXES)


def group_of(name: str, suffixes: Sequence[str]) -> str:
    """The name without any suffix, which the names of partners have in common.

    If suffixes overlap, as `_mask` and `sk`, partners need not have it in common; then it is the folder.
    """
    every = (*suffixes, IMAGE_SUFFIX)
    return _stripped(name, every) if _is_unambiguous(every) else folder_of(name)


def _stripped(name: str, suffixes: Sequence[str]) -> str:
    while name.endswith(tuple(suffixes)):
        name = name.removesuffix(next(suffix for suffix in suffixes if name.endswith(suffix)))
    return name


@cache
def _is_unambiguous(suffixes: Sequence[str]) -> bool:
    """True if stripping gives the same name, whatever the order in which suffixes are taken away."""
    pairs = ((long, short) for long in suffixes for short in suffixes if long.endswith(short))
    return not any(_stripped(long.removesuffix(short), suffixes) for long, short in pairs)


def pair(found: Mapping[str, Roles], suffixes: Sequence[str]) -> Pairs:
    """Pairs each label with the image of the same name, or else with that of its name without a suffix.

    Two labels that belong to one image stay together, so that the caller can reject them.
    """
    mixed = {name: roles[EITHER] for name, roles in found.items() if EITHER in roles and IMAGE not in roles}
    images = mixed | {name: roles[IMAGE] for name, roles in found.items() if IMAGE in roles}
    labels = {name: roles[LABEL] for name, roles in found.items() if LABEL in roles}
    pairs = _pair_folders(labels, images, suffixes)
    for names in (mixed.keys(), images.keys() - mixed.keys()):
        pairs |= _pair_in_one_folder({name: images[name] for name in names - pairs.keys()}, suffixes)
    used = {file for roles in pairs.values() for files in roles.values() for file in files}
    groups = [(_id(name, roles, labels, images), roles) for name, roles in pairs.items()]
    for name, roles in found.items():
        for role, files in roles.items():
            if left := [file for file in files if file not in used]:
                groups.append((name, {role: left}))
    return Pairs(groups, {folder_of(name) for name in pairs if name in mixed})


def role_in_mixed_folder(name: str, suffixes: Sequence[str]) -> str:
    """The role of a file without a partner in a folder that holds images and labels."""
    return LABEL if name.endswith(tuple(suffixes)) else IMAGE


def folder_of(name: str) -> str:
    """The folder of a name, empty if it is in none."""
    return name.rpartition("/")[0]


def _id(image: str, roles: Roles, labels: Names, images: Names) -> str:
    """The id of a pair: the name of its image, without `_image` if neither its label nor another image needs that."""
    short = image.removesuffix(IMAGE_SUFFIX)
    return image if roles[LABEL] == labels.get(image) or short in images else short


def _images_of(label: str, suffixes: Sequence[str]) -> Iterator[str]:
    """Yields the names that the image of a label may have."""
    for suffix in suffixes:
        if label.endswith(suffix):
            base = label.removesuffix(suffix)
            yield from (base, base + IMAGE_SUFFIX)


def _pair_folders(labels: Names, images: Names, suffixes: Sequence[str]) -> dict[str, Roles]:
    """The pairs of a folder of labels and a folder of images, by the name of the image.

    Equal names come first. They are parted only if this gives more pairs: the images `a` and `a_mask` have the labels
    `a_mask` and `a_mask_mask`. This is bipartite matching by augmenting paths (Kuhn, 1955).
    """
    candidates = {name: [i for i in _images_of(name, ("", *suffixes)) if i in images] for name in labels}
    label_of = {name: name for name in labels if name in images}

    def place(label: str, tried: set[str]) -> bool:
        for image in candidates[label]:
            if image not in tried:
                tried.add(image)
                if image not in label_of or place(label_of[image], tried):
                    label_of[image] = label
                    return True
        return False

    second = [name for name in labels if name not in images and not place(name, set())]
    pairs = {image: {IMAGE: [*images[image]], LABEL: [*labels[label]]} for image, label in label_of.items()}
    for name in second:
        image = next((image for image in candidates[name] if label_of[image] != image), None)
        if image is not None:
            pairs[image][LABEL] += labels[name]
    return pairs


def _pair_in_one_folder(files: Names, suffixes: Sequence[str]) -> dict[str, Roles]:
    """The pairs among files that may be images or labels, by the name of the image.

    A longer name is the surer label. If a name belongs to an image and to a label, the JPEG is the image.
    """
    image_of: dict[str, str] = {}
    for name in files:
        for image in _images_of(name, suffixes):
            if image in files and image != name:
                image_of.setdefault(name, image)
    pairs: dict[str, Roles] = {}
    for name in sorted(image_of, key=lambda name: (-len(name), name)):
        taken = pairs[name][IMAGE] if name in pairs else []
        labels = [file for file in files[name] if file not in taken]
        if labels:
            image = image_of[name]
            jpegs = [file for file in files[image] if image in image_of and file.lower().endswith(JPEG_SUFFIXES)]
            pairs.setdefault(image, {IMAGE: jpegs or [*files[image]], LABEL: []})[LABEL] += labels
    return pairs
