"""A picture and its label map, painted together from the same polygons.

Polygons are in unit image coordinates (0..1 from the left and top edge), so the size only changes the sampling. Each
polygon is rasterized once. Pixels whose center lies inside take its class in the label map; the picture is blended by
the anti-aliased coverage of the same raster. The label is therefore exact by construction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from .curves import Points

Image = npt.NDArray[np.uint8]
Color = tuple[float, float, float]

_SHIFT = 6  # fractional bits of the coordinates given to OpenCV
# OpenCV's anti-aliased polygons reach 0.7 pixels too far out: coverage is full at the true outline and zero 1.3 pixels
# outside it. So pixels of full coverage are those with their center inside. A mix with the raster eroded by one pixel
# gives a coverage of one half at the outline, and the right amount of color in lines thinner than a pixel.
_INSIDE = 250
_ERODED_SHARE = 0.6
_SOFT_SIZE = 96  # side in pixels of the grid for soft masks, which have no finer detail at any picture size
_NEIGHBORHOOD = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class Patch:
    """Coverage `alpha` (h, w) uint8 of a shape in its bounding box, which lies at `rows`, `cols` of the picture."""

    rows: slice
    cols: slice
    alpha: Image
    inside: Image | None = None
    """(h, w) uint8, at least _INSIDE for pixels whose center lies in the shape; None for shapes without a label."""


def scaled(color: Color, factor: float) -> Color:
    """The color made darker (factor < 1) or brighter (factor > 1)."""
    return color[0] * factor, color[1] * factor, color[2] * factor


class Canvas:
    """A picture `image` (S, S, 3) uint8 RGB and its label map `label` (S, S) uint8.

    While `labelled` is False, painting changes the picture only.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.image: Image = np.zeros((size, size, 3), np.uint8)
        self.label: Image = np.zeros((size, size), np.uint8)
        self.labelled = True

    def cover(self, *polygons: Points) -> Patch | None:
        """The coverage of the union of polygons (N, 2); None if they lie outside the picture."""
        raster = _rasterize(polygons, self.size, margin=2)
        if raster is None:
            return None
        (left, top, right, bottom), full = raster
        alpha = cv2.addWeighted(full, 1 - _ERODED_SHARE, cv2.erode(full, _NEIGHBORHOOD), _ERODED_SHARE, 0)
        return Patch(slice(top, bottom), slice(left, right), np.asarray(alpha, np.uint8), full)

    def paint(
        self,
        polygons: Points | Sequence[Points],
        color: Color | Image,
        class_id: int | None = None,
        opacity: float = 1.0,
    ) -> Patch | None:
        """Paints polygons in a color (RGB 0..255) or texture (S, S, 3), and writes `class_id` into the label.

        With `class_id` None the label stays unchanged (shading, detail). Returns the coverage, for `within`.
        """
        patch = self.cover(*([polygons] if isinstance(polygons, np.ndarray) else polygons))
        if patch is not None:
            self.blend(patch, color, opacity)
            self.mark(patch, class_id)
        return patch

    def blend(self, patch: Patch, color: Color | Image, opacity: float = 1.0) -> None:
        """Blends a color or texture into the picture by a coverage; the label stays unchanged."""
        under = self.image[patch.rows, patch.cols]
        if isinstance(color, tuple):
            over = np.empty_like(under)
            cv2.rectangle(over, (0, 0), over.shape[1::-1], color, cv2.FILLED)
        else:
            over = color[patch.rows, patch.cols]
        weight = np.multiply(patch.alpha, opacity, dtype=np.float32)
        cv2.blendLinear(over, under, weight, 255 - weight, under)

    def mark(self, patch: Patch, class_id: int | None) -> None:
        """Writes `class_id` into the label inside a shape."""
        if class_id is not None and self.labelled and patch.inside is not None:
            self.label[patch.rows, patch.cols][patch.inside >= _INSIDE] = class_id

    def within(self, outer: Patch | None, polygons: Sequence[Points], color: Color | Image, opacity: float = 1) -> None:
        """Paints polygons into the part of the picture that `outer` covers (iris in the eye, teeth in the mouth)."""
        if outer is None or (patch := self.cover(*polygons)) is None:
            return
        if both := _overlap(patch, outer):
            self.blend(both, color, opacity)

    def shade(
        self,
        polygons: Sequence[Points],
        softness: float,
        color: Color,
        strength: float,
        within: Patch | None = None,
    ) -> None:
        """Paints polygons with soft edges (a shadow, a glow), blurred by `softness` (unit coordinates).

        With `within`, only the part of the picture under that coverage changes.
        """
        patch = self._soft_cover(polygons, softness)
        if within is not None and patch is not None:
            patch = _overlap(patch, within)
        if patch is not None:
            self.blend(patch, color, strength)

    def _soft_cover(self, polygons: Sequence[Points], softness: float) -> Patch | None:
        """The blurred coverage of polygons, computed on a coarse grid whose size does not depend on the picture's."""
        sigma = max(softness * _SOFT_SIZE, 0.3)
        raster = _rasterize(polygons, _SOFT_SIZE, margin=1 + int(2.5 * sigma))
        if raster is None:
            return None
        reach = 2 * int(2 * sigma + 0.5) + 1
        coarse = cv2.GaussianBlur(raster[1], (reach, reach), sigma)
        zoom = self.size / _SOFT_SIZE  # the box's edges are rounded to pixels, which a soft edge does not show
        left, top, right, bottom = (round(edge * zoom) for edge in raster[0])
        if left >= right or top >= bottom:
            return None
        alpha = cv2.resize(coarse, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        return Patch(slice(top, bottom), slice(left, right), np.asarray(alpha, np.uint8))


Box = tuple[int, int, int, int]


def _rasterize(polygons: Sequence[Points], size: int, margin: int) -> tuple[Box, Image] | None:
    """Rasterizes the union of polygons on a grid of size x size, with anti-aliasing.

    Returns ((left, top, right, bottom), coverage of that box), or None if the box with its margin is outside the grid.
    """
    fixed = [np.rint(p * (size << _SHIFT) - (1 << (_SHIFT - 1))).astype(np.int32) for p in polygons]
    x, y, width, height = cv2.boundingRect(fixed[0] if len(fixed) == 1 else np.concatenate(fixed))
    left, top = max((x >> _SHIFT) - margin, 0), max((y >> _SHIFT) - margin, 0)
    right = min(((x + width) >> _SHIFT) + 2 + margin, size)
    bottom = min(((y + height) >> _SHIFT) + 2 + margin, size)
    if left >= right or top >= bottom:
        return None
    alpha = np.zeros((bottom - top, right - left), np.uint8)
    origin = np.array([left << _SHIFT, top << _SHIFT], np.int32)
    for p in fixed:  # one call each: in a single call, overlaps would cancel each other
        cv2.fillPoly(alpha, [p - origin], 255, cv2.LINE_AA, _SHIFT)
    return (left, top, right, bottom), alpha


def _overlap(a: Patch, b: Patch) -> Patch | None:
    """The product of two coverages; None if their boxes do not overlap."""
    top, bottom = max(a.rows.start, b.rows.start), min(a.rows.stop, b.rows.stop)
    left, right = max(a.cols.start, b.cols.start), min(a.cols.stop, b.cols.stop)
    if top >= bottom or left >= right:
        return None
    box = (top, bottom, left, right)
    both = cv2.multiply(_window(a, *box), _window(b, *box), scale=1 / 255)
    return Patch(slice(top, bottom), slice(left, right), np.asarray(both, np.uint8))


def _window(patch: Patch, top: int, bottom: int, left: int, right: int) -> Image:
    """The part of a coverage inside a box, which lies within the coverage's own box."""
    y, x = patch.rows.start, patch.cols.start
    return patch.alpha[top - y : bottom - y, left - x : right - x]
