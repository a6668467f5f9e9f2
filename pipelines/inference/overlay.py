"""Draws label maps for people: over their image, as cut-outs, and in comparison."""

import cv2
import numpy as np
import numpy.typing as npt

from dmlcsr.taxonomy import Taxonomy

Pixels = npt.NDArray[np.uint8]
OPACITY = 0.5
"""Weight of the class colors against the image, 0..1."""


def overlay(image: Pixels, label: Pixels, taxonomy: Taxonomy) -> Pixels:
    """(H, W, 3) RGB: the image, mixed with the colors of its classes; the background is not changed.

    A label of another resolution is scaled to the image, without mixing ids.
    """
    size = (image.shape[1], image.shape[0])
    if label.shape != image.shape[:2]:
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)
    mixed = cv2.addWeighted(image, 1 - OPACITY, taxonomy.colorize(label), OPACITY, 0)
    return np.where((label == 0)[..., None], image, mixed)


def cutouts(image: Pixels, label: Pixels, taxonomy: Taxonomy) -> dict[str, Pixels]:
    """The cut-out of each part in a label map of the image's size, by class: its bounding box, (h, w, 4) RGBA.

    The background is not a part.
    """
    found = {}
    for part, name in enumerate(taxonomy.classes[1:], start=1):
        mask = (label == part).astype(np.uint8)
        if mask.any():
            x, y, width, height = cv2.boundingRect(mask)
            box = np.s_[y : y + height, x : x + width]
            found[name] = np.dstack([image[box], mask[box] * np.uint8(255)])
    return found


def comparison(
    image: Pixels, before: Pixels, after: Pixels, differs: npt.NDArray[np.bool_], taxonomy: Taxonomy
) -> Pixels:
    """(H, 4 W, 3) RGB: the image, each label map over it, and the darkened image with the differing pixels in red."""
    wrong = cv2.resize(differs.astype(np.uint8), (image.shape[1], image.shape[0]), interpolation=cv2.INTER_NEAREST)
    errors = np.where(wrong[..., None] > 0, np.array([255, 0, 0], np.uint8), image // 3)
    return np.hstack([image, overlay(image, before, taxonomy), overlay(image, after, taxonomy), errors])
