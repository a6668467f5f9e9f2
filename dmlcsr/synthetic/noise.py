"""Label noise: the ways in which real face annotations fail, applied to an exact label map.

Each kind is a function (label, rng) -> label, which returns the label unchanged if it cannot be applied. All strengths
are fractions of the label's size. The noise has its own random stream, so pictures do not depend on it.
"""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from ..taxonomy import CELEBAMASK_HQ
from . import labels
from .streams import Stream, generator

Label = npt.NDArray[np.uint8]
Rng = np.random.Generator

# Groups of parts that an annotator may leave out together: both brows, one eye, the lips, ...
_SMALL_PARTS: tuple[tuple[int, ...], ...] = (
    (labels.BROWS[-1], labels.BROWS[1]), (labels.BROWS[-1],), (labels.BROWS[1],), (labels.EYES[-1],), (labels.EYES[1],),
    (labels.EARS[-1], labels.EARS[1]), (labels.EARS[-1],), (labels.EARS[1],), (labels.NOSE,),
    (labels.UPPER_LIP,), (labels.LOWER_LIP,), (labels.UPPER_LIP, labels.LOWER_LIP),
)  # fmt: skip
_ACCESSORIES = (labels.GLASSES, labels.HAT, labels.EARRING, labels.NECKLACE)


def is_corrupted(seed: int, index: int, probability: float) -> bool:
    """True if the label of face `index` is corrupted, given that a fraction `probability` of the labels is.

    A face that is corrupted at one probability is corrupted at every higher one. Raises ValueError for a probability
    outside 0..1 and for a negative seed or index.
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability must be within 0..1, got {probability}")
    return bool(generator(seed, index, Stream.CORRUPTED).random() < probability)


def corrupt_label(label: Label, seed: int, index: int) -> tuple[Label, str]:
    """(H, W) uint8 ids of CELEBAMASK_HQ -> (corrupted copy, name of the corruption, one of CORRUPTIONS).

    (seed, index) determines an order of the kinds. If a kind cannot be applied (no accessory to forget), the next one
    is tried, so the result always differs from `label`. Raises ValueError for another shape or dtype, for a label
    that holds one class only, and for a negative seed or index.
    """
    if label.ndim != 2 or label.dtype != np.uint8:
        raise ValueError(f"a label must be (H, W) uint8, got {label.shape} {label.dtype}")
    rng = generator(seed, index, Stream.CORRUPTION)
    for kind in rng.permutation(len(CORRUPTIONS)).tolist():
        name = CORRUPTIONS[kind]
        corrupted = _KINDS[name](label, rng)
        if not np.array_equal(corrupted, label):
            return corrupted, name
    raise ValueError("this label cannot be corrupted: it holds one class only")


def _boundary(label: Label, rng: Rng) -> Label:
    """Draws careless outlines: polygons of few vertices, or the lines of a shaky hand."""
    if rng.random() < 0.5:
        return _polygons(label, tolerance=rng.uniform(0.008, 0.02) * max(label.shape))
    return _wobble(label, rng)


def _polygons(label: Label, tolerance: float) -> Label:
    """Redraws every part as polygons within `tolerance` pixels of its outline, large parts first."""
    ids, areas = np.unique(label, return_counts=True)
    corrupted = label.copy()
    for class_id in ids[np.argsort(-areas)].tolist():
        mask = (label == class_id).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        rough = [cv2.approxPolyDP(outline, tolerance, True) for outline in outlines]
        # One call draws all outlines of a part, so that holes stay holes (even-odd rule).
        cv2.fillPoly(corrupted, rough, class_id)
    return corrupted


def _wobble(label: Label, rng: Rng) -> Label:
    """Displaces pixels smoothly by up to 1 to 2.5 % of the size, in waves about a tenth of the size long."""
    height, width = label.shape
    strength = rng.uniform(0.01, 0.025) * max(height, width)
    grid = (rng.random((2, 12, 12), dtype=np.float32) * 2 - 1) * np.float32(strength)
    dx, dy = (cv2.resize(g, (width, height), interpolation=cv2.INTER_CUBIC) for g in grid)
    x = np.arange(width, dtype=np.float32)[None, :] + np.asarray(dx, np.float32)
    y = np.arange(height, dtype=np.float32)[:, None] + np.asarray(dy, np.float32)
    moved = cv2.remap(label, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8)


def _shift(label: Label, rng: Rng) -> Label:
    """Moves the whole mask by 2 to 5 % of the size; its border pixels fill the free space."""
    angle, share = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.05)
    height, width = label.shape
    dx, dy = round(np.cos(angle) * share * width), round(np.sin(angle) * share * height)
    rows = np.clip(np.arange(height) - dy, 0, height - 1)
    cols = np.clip(np.arange(width) - dx, 0, width - 1)
    return np.ascontiguousarray(label[rows[:, None], cols[None, :]])


def _mirrored_ids(label: Label, rng: Rng) -> Label:
    """Swaps left and right ids, as if picture and mask had been mirrored without swapping the ids."""
    del rng  # every kind has the same signature
    return np.asarray(CELEBAMASK_HQ.flip_lut()[label], np.uint8)


def _missing_part(label: Label, rng: Rng) -> Label:
    """Replaces a small part, or a pair of parts, by skin, as if it had never been annotated."""
    present = np.bincount(label.ravel(), minlength=256) > 0
    candidates = [part for part in _SMALL_PARTS if all(present[i] for i in part)]
    corrupted = label.copy()
    if candidates:
        part = candidates[int(rng.integers(len(candidates)))]
        corrupted[np.isin(label, part)] = labels.SKIN
    return corrupted


def _forgotten_accessory(label: Label, rng: Rng) -> Label:
    """Replaces one kind of accessory by its surroundings or by what it covers, as if it had not been annotated."""
    present = np.bincount(label.ravel(), minlength=256) > 0
    candidates = [i for i in _ACCESSORIES if present[i]]
    if not candidates:
        return label.copy()
    forgotten = candidates[int(rng.integers(len(candidates)))]
    if forgotten in (labels.EARRING, labels.NECKLACE):
        return _filled_from_around(label, forgotten)
    under_hat = labels.HAIR if rng.random() < 0.5 else labels.BACKGROUND
    corrupted = label.copy()
    corrupted[label == forgotten] = labels.SKIN if forgotten == labels.GLASSES else under_hat
    return corrupted


def _filled_from_around(label: Label, class_id: int) -> Label:
    """Gives every pixel of a class the class of the nearest pixel of another class."""
    inside = (label == class_id).astype(np.uint8)
    if inside.all():
        return label.copy()
    _, nearest = cv2.distanceTransformWithLabels(inside, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    outside = inside == 0
    lut = np.zeros(int(nearest.max()) + 1, np.uint8)
    lut[nearest[outside]] = label[outside]
    return np.where(outside, label, lut[nearest]).astype(np.uint8)


_KINDS: dict[str, Callable[[Label, Rng], Label]] = {
    "boundary": _boundary,
    "shift": _shift,
    "mirrored_ids": _mirrored_ids,
    "missing_part": _missing_part,
    "forgotten_accessory": _forgotten_accessory,
}

CORRUPTIONS: tuple[str, ...] = tuple(_KINDS)
"""Names of the kinds of label corruption."""
