"""Draws label maps for people: over their image, as cut-outs, in comparison, and with a legend."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dmlcsr.taxonomy import Color, Taxonomy

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
    """The image, each label map over it, and the darkened image with the differing pixels in red, above a legend.

    The pictures take the first H rows and 4 W columns of the result, uint8 RGB.
    """
    wrong = cv2.resize(differs.astype(np.uint8), (image.shape[1], image.shape[0]), interpolation=cv2.INTER_NEAREST)
    errors = np.where(wrong[..., None] > 0, np.array([255, 0, 0], np.uint8), image // 3)
    pictures = np.hstack([image, overlay(image, before, taxonomy), overlay(image, after, taxonomy), errors])
    return with_legend(pictures, (before, after), taxonomy)


def with_legend(picture: Pixels, labels: Sequence[Pixels], taxonomy: Taxonomy) -> Pixels:
    """The picture (H, W, 3), above a white strip with the colors and names of the classes in the label maps.

    The picture's pixels stay where they are; a picture that is narrower than a name gets a white margin on its right.
    The background, which an overlay does not color, is not listed.
    """
    counts = sum(np.bincount(label.ravel(), minlength=256) for label in labels)
    parts = [part for part in np.flatnonzero(counts) if 0 < part < taxonomy.num_classes]
    if not parts:
        return picture
    strip = _strip([(taxonomy.classes[part], taxonomy.palette[part]) for part in parts], *picture.shape[:2])
    margin = ((0, 0), (0, strip.shape[1] - picture.shape[1]), (0, 0))
    return np.vstack([np.pad(picture, margin, constant_values=255), strip])


def _strip(entries: Sequence[tuple[str, Color]], height: int, width: int) -> Pixels:
    """Lines of colored squares with names, for a picture of height x width; at least as wide as the picture."""
    size = max(12, height // 40)
    font = ImageFont.load_default(size)
    widths = [round(font.getlength(name)) + 3 * size for name, _ in entries]
    width = max(width, *widths)
    places, x, y = [], 0, 0
    for needed in widths:
        if x + needed > width:
            x, y = 0, y + 3 * size // 2
        places.append((x, y))
        x += needed
    strip = Image.new("RGB", (width, y + 2 * size), "white")
    draw = ImageDraw.Draw(strip)
    for (name, color), (x, y) in zip(entries, places, strict=True):
        left, top = x + size // 2, y + size // 2
        draw.rectangle((left, top, left + size, top + size), fill=color, outline="black")
        draw.text((left + 3 * size // 2, top + size // 2), name, fill="black", font=font, anchor="lm")
    return np.asarray(strip, np.uint8)
