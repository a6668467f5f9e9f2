"""Taxonomies: the named, ordered class sets of the published face-parsing data sets.

Data sets and models store the name of their taxonomy. A mismatch is an error; labels are never translated silently.
Sources: LaPa (AAAI 2020), CelebAMask-HQ (CVPR 2020), Helen relabelled by Smith et al. / Lin et al., Face
Synthetics (ICCV 2021).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

IGNORE = 255
"""Label id of a pixel that losses and scores ignore."""

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Taxonomy:
    """An ordered set of classes; the index of a class is its id in label maps. Class 0 is background.

    `flip_pairs` are the pairs of ids that a horizontal mirror swaps. In every taxonomy a class named l_ or left_ is on
    the viewer's left (for Face Synthetics this was checked on all 100 published sample renders). `palette` has one RGB
    color (0..255) per class. `overall` groups classes for a pooled "overall" F1 (Helen); it is empty if the data set
    defines no groups.
    """

    name: str
    classes: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    palette: tuple[Color, ...]
    overall: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """The flip pairs, each as (id on the viewer's left, id on the viewer's right)."""
        return tuple((a, b) if self.classes[a].startswith(("l_", "left_")) else (b, a) for a, b in self.flip_pairs)

    def flip_lut(self) -> npt.NDArray[np.uint8]:
        """(256,) uint8 lookup table that swaps the left/right ids and maps every other value to itself."""
        lut = np.arange(256, dtype=np.uint8)
        for a, b in self.flip_pairs:
            lut[a], lut[b] = b, a
        return lut

    def colorize(self, label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """(H, W) uint8 ids -> (H, W, 3) uint8 RGB; ids outside the taxonomy (255 = ignore) become gray."""
        lut = np.full((256, 3), 128, np.uint8)
        lut[: self.num_classes] = self.palette
        return lut[label]


_SKIN, _NOSE, _HAIR = (241, 194, 163), (214, 137, 16), (92, 58, 33)
_BROW_1, _BROW_2, _EYE_1, _EYE_2 = (120, 66, 18), (175, 122, 65), (31, 97, 204), (93, 173, 226)
_EAR_1, _EAR_2, _NECK, _CLOTH = (155, 89, 182), (195, 155, 211), (220, 160, 130), (39, 110, 90)
_MOUTH, _UPPER_LIP, _LOWER_LIP = (123, 20, 40), (203, 67, 82), (236, 112, 140)
_GLASSES, _HAT, _JEWEL_1, _JEWEL_2 = (44, 44, 62), (244, 208, 63), (80, 220, 180), (0, 255, 127)

_LAPA_CLASSES = (
    "background", "skin", "left_brow", "right_brow", "left_eye", "right_eye", "nose", "upper_lip",
    "inner_mouth", "lower_lip", "hair",
)  # fmt: skip
_LAPA_PALETTE = (
    (0, 0, 0), _SKIN, _BROW_1, _BROW_2, _EYE_1, _EYE_2, _NOSE, _UPPER_LIP, _MOUTH, _LOWER_LIP, _HAIR,
)  # fmt: skip

LAPA = Taxonomy("lapa", _LAPA_CLASSES, ((2, 3), (4, 5)), _LAPA_PALETTE)

HELEN = Taxonomy(
    "helen",
    _LAPA_CLASSES,
    ((2, 3), (4, 5)),
    _LAPA_PALETTE,
    overall={"brows": (2, 3), "eyes": (4, 5), "nose": (6,), "mouth": (7, 8, 9)},
)

CELEBAMASK_HQ = Taxonomy(
    "celebamask_hq",
    (
        "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
        "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
    ),
    ((4, 5), (6, 7), (8, 9)),
    (
        (0, 0, 0), _SKIN, _NOSE, _GLASSES, _EYE_1, _EYE_2, _BROW_1, _BROW_2, _EAR_1, _EAR_2,
        _MOUTH, _UPPER_LIP, _LOWER_LIP, _HAIR, _HAT, _JEWEL_1, _JEWEL_2, _NECK, _CLOTH,
    ),
)  # fmt: skip

FACE_SYNTHETICS = Taxonomy(
    "face_synthetics",
    (
        "background", "skin", "nose", "right_eye", "left_eye", "right_brow", "left_brow", "right_ear",
        "left_ear", "mouth_interior", "top_lip", "bottom_lip", "neck", "hair", "beard", "clothing",
        "glasses", "headwear", "facewear",
    ),
    ((3, 4), (5, 6), (7, 8)),
    (
        (0, 0, 0), _SKIN, _NOSE, _EYE_2, _EYE_1, _BROW_2, _BROW_1, _EAR_2, _EAR_1, _MOUTH, _UPPER_LIP,
        _LOWER_LIP, _NECK, _HAIR, (130, 90, 60), _CLOTH, _GLASSES, _HAT, _JEWEL_1,
    ),
)  # fmt: skip

TAXONOMIES: Mapping[str, Taxonomy] = {t.name: t for t in (LAPA, CELEBAMASK_HQ, HELEN, FACE_SYNTHETICS)}


def get_taxonomy(name: str) -> Taxonomy:
    """The taxonomy with this name. Raises ValueError for an unknown name; the message lists the known ones."""
    if name not in TAXONOMIES:
        raise ValueError(f"unknown taxonomy {name!r}; known are {', '.join(sorted(TAXONOMIES))}")
    return TAXONOMIES[name]


# Explicit remaps by class name. Classes that are not listed become background; "left" is always the viewer's left.
_SHARED_WITH_LAPA = {"skin": "skin", "nose": "nose", "hair": "hair"}
_REMAPS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("celebamask_hq", "lapa"): _SHARED_WITH_LAPA
    | {"l_brow": "left_brow", "r_brow": "right_brow", "l_eye": "left_eye", "r_eye": "right_eye"}
    | {"u_lip": "upper_lip", "mouth": "inner_mouth", "l_lip": "lower_lip", "eye_g": "skin"},
    ("face_synthetics", "lapa"): _SHARED_WITH_LAPA
    | {"left_brow": "left_brow", "right_brow": "right_brow", "left_eye": "left_eye", "right_eye": "right_eye"}
    | {"top_lip": "upper_lip", "mouth_interior": "inner_mouth", "bottom_lip": "lower_lip"}
    | {"beard": "skin", "glasses": "skin"},
}


def remap_lut(source: Taxonomy, target: Taxonomy) -> npt.NDArray[np.uint8]:
    """(256,) uint8 lookup table from ids of `source` to ids of `target`; 255 stays 255.

    Raises ValueError if the project defines no remap from `source` to `target`.
    """
    if (source.name, target.name) not in _REMAPS:
        known = ", ".join(f"{a} -> {b}" for a, b in _REMAPS)
        raise ValueError(f"no remap {source.name} -> {target.name} is defined; defined are {known}")
    lut = np.full(256, IGNORE, np.uint8)
    lut[: source.num_classes] = 0
    for source_class, target_class in _REMAPS[source.name, target.name].items():
        lut[source.classes.index(source_class)] = target.classes.index(target_class)
    return lut
