"""Geometry of the network's square canvas, and augmentation as a pure function of (seed, epoch, row id).

The canvas shows the whole image in its center; the image's longer side fills the canvas. A pose rotates, scales and
mirrors it (docs/method.md, section 5). All maps go from pixel center to pixel center, in units relative to the array's
own size. So an image and a label map of half its resolution are mapped alike, and the identity pose leaves a square
image of the canvas's size unchanged.
"""

import hashlib
import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dmlcsr.taxonomy import IGNORE, Taxonomy

Pixels = npt.NDArray[np.uint8]
Color = tuple[int, int, int]
BORDER_COLOR = (124, 116, 104)
"""RGB of canvas pixels outside the image, if the model's card names no other one.

It is the ImageNet mean, which normalization maps to zero.
"""
_TIE = 1 / 256
"""Offset in pixels of nearest-neighbor sampling, so that all ties are rounded in the same direction.

It is larger than the rounding of OpenCV's fixed-point coordinates and too small to move a pixel that is not a tie.
"""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Distribution of the random poses (docs/method.md, section 5).

    The scale factor is clip(N(1, s), 1 - s, 1 + s) with s = `scale`. With probability `rotation_probability` an image
    is rotated by clip(N(0, r), -2r, 2r) degrees with r = `rotation`. With probability `flip_probability` it is
    mirrored.
    """

    scale: float = 0.25
    rotation: float = 30.0
    rotation_probability: float = 0.6
    flip_probability: float = 0.5


@dataclass(frozen=True)
class Pose:
    """One transformation of an image. A `scale` above 1 makes the face smaller; `rotation` is in degrees."""

    scale: float = 1.0
    rotation: float = 0.0
    flip: bool = False


def draw_pose(augmentation: Augmentation, seed: int, epoch: int, row_id: str) -> Pose:
    """The pose of one row in one epoch. It depends on the arguments only, not on the machine or the order of rows."""
    name = int.from_bytes(hashlib.blake2b(row_id.encode(), digest_size=8).digest())
    rng = np.random.default_rng([seed, epoch, name])
    s, r = augmentation.scale, augmentation.rotation
    # All numbers are drawn before any is used: a changed probability does not shift the others.
    scale, rotation = 1 + s * rng.standard_normal(), r * rng.standard_normal()
    turn, mirror = rng.random(2)
    return Pose(
        scale=float(np.clip(scale, 1 - s, 1 + s)),
        rotation=float(np.clip(rotation, -2 * r, 2 * r)) if turn < augmentation.rotation_probability else 0.0,
        flip=bool(mirror < augmentation.flip_probability),
    )


def canvas_to_image(height: int, width: int, size: int, pose: Pose) -> npt.NDArray[np.float64]:
    """(2, 3) affine matrix from pixel coordinates (x, y) of a size x size canvas to those of a height x width array."""
    step = pose.scale * max(height, width) / size
    angle = math.radians(pose.rotation)
    turn = step * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if pose.flip:
        turn[:, 0] *= -1
    middle = (size - 1) / 2
    offset = np.array([(width - 1) / 2, (height - 1) / 2]) - turn @ np.array([middle, middle])
    return np.column_stack([turn, offset])


def _shrink(height: int, width: int, size: int, pose: Pose) -> int:
    """The factor by which `warp_image` reduces an image by averaging before it warps it; below 2 it does not."""
    return int(pose.scale * max(height, width) / size)


def decode_factor(height: int, width: int, size: int, pose: Pose) -> int:
    """The factor (1, 2, 4 or 8) by which a JPEG of height x width may be shrunk while it is decoded.

    The factor divides both image sides and the factor by which `warp_image` would shrink anyway, so the result is
    nearly the same: it differs by 0.4 gray levels RMS in luma and 0.7 in RGB. Any other factor would blur or alias.
    """
    shrink = _shrink(height, width, size, pose)
    return next((factor for factor in (8, 4, 2) if shrink and not any(n % factor for n in (shrink, height, width))), 1)


def warp_image(image: Pixels, size: int, pose: Pose, border_color: Color = BORDER_COLOR) -> Pixels:
    """(H, W, 3) uint8 RGB -> (size, size, 3) uint8, bilinear; `border_color` outside the image.

    An image that is shrunk to half or less is averaged first, to avoid aliasing.
    """
    shrink = _shrink(image.shape[0], image.shape[1], size, pose)
    if shrink >= 2:
        reduced = (max(1, image.shape[1] // shrink), max(1, image.shape[0] // shrink))
        image = np.asarray(cv2.resize(image, reduced, interpolation=cv2.INTER_AREA), np.uint8)
    return _warp(image, size, pose, cv2.INTER_LINEAR, border_color)


def warp_label(label: Pixels, size: int, pose: Pose, taxonomy: Taxonomy) -> Pixels:
    """(H, W) uint8 ids -> (size, size) uint8, nearest neighbor; 255 outside. A mirrored pose swaps left/right ids."""
    warped = _warp(label, size, pose, cv2.INTER_NEAREST, IGNORE)
    return np.asarray(cv2.LUT(warped, taxonomy.flip_lut()), np.uint8) if pose.flip else warped


def _warp(array: Pixels, size: int, pose: Pose, interpolation: int, border: int | tuple[int, ...]) -> Pixels:
    matrix = canvas_to_image(array.shape[0], array.shape[1], size, pose)
    if interpolation == cv2.INTER_NEAREST:
        # With an odd margin every center lies halfway between two pixels, and rounding to even would drop every other.
        matrix[:, 2] += _TIE
    warped = cv2.warpAffine(
        array,
        matrix,
        (size, size),
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=border,
    )
    return np.asarray(warped, np.uint8)


def augment(
    image: Pixels, label: Pixels, taxonomy: Taxonomy, size: int, pose: Pose, border_color: Color = BORDER_COLOR
) -> tuple[Pixels, Pixels]:
    """The training sample of an image (H, W, 3) and its label: (size, size, 3) RGB and (size, size) ids, both uint8.

    The label map may have a lower resolution than the image.
    """
    return warp_image(image, size, pose, border_color), warp_label(label, size, pose, taxonomy)
