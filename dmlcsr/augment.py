"""Geometry of the network's square canvas and augmentation as a pure function of (seed, epoch, row id).

The canvas shows the whole image, centred, its longer side filling the canvas. A pose turns, scales and mirrors it.
All maps are between pixel centres in units relative to the array's own size, so the image and a label of half its
resolution land on the same place, and an identity pose of a square image of the canvas' size changes no pixel.
"""

import hashlib
import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dmlcsr.taxonomy import IGNORE, Taxonomy

Pixels = npt.NDArray[np.uint8]
BORDER_COLOR = (124, 116, 104)
"""RGB of canvas pixels outside the image: the ImageNet mean, which normalisation makes zero."""


_TIE = 1 / 256
"""Pixels by which nearest-neighbour sampling leans, so that ties all fall the same way."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far poses spread (docs/method.md, section 5).

    `scale` s: factor clip(N(1, s), 1 - s, 1 + s); `rotation` r in degrees: clip(N(0, r), -2r, 2r) with
    `rotation_probability`; mirrored with `flip_probability`.
    """

    scale: float = 0.25
    rotation: float = 30.0
    rotation_probability: float = 0.6
    flip_probability: float = 0.5


@dataclass(frozen=True)
class Pose:
    """`scale` is the part of the world the canvas shows (above 1 the face gets smaller); `rotation` in degrees."""

    scale: float = 1.0
    rotation: float = 0.0
    flip: bool = False


def draw_pose(augmentation: Augmentation, seed: int, epoch: int, row_id: str) -> Pose:
    """The pose of one row in one epoch; the same on every machine, in every order."""
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
    """(2, 3) affine map from canvas pixel coordinates (x, y) to those of a height x width array."""
    step = pose.scale * max(height, width) / size
    angle = math.radians(pose.rotation)
    turn = step * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if pose.flip:
        turn[:, 0] *= -1
    middle = (size - 1) / 2
    offset = np.array([(width - 1) / 2, (height - 1) / 2]) - turn @ np.array([middle, middle])
    return np.column_stack([turn, offset])


def _shrink(height: int, width: int, size: int, pose: Pose) -> int:
    """Pixels a side that are averaged into one before an image is warped; below 2 none are."""
    return int(pose.scale * max(height, width) / size)


def decode_factor(height: int, width: int, size: int, pose: Pose) -> int:
    """The part (1, 2, 4 or 8) of its size at which an image of height x width may be decoded before `warp_image`.

    A divisor of what `warp_image` would average over: the rest of the way is the same, and the canvas differs by
    about 0.4 grey levels RMS in luma and 0.7 in RGB from that of the whole image. Any other would blur or alias.
    """
    shrink = _shrink(height, width, size, pose)
    return next((factor for factor in (8, 4, 2) if shrink and not any(n % factor for n in (shrink, height, width))), 1)


def warp_image(image: Pixels, size: int, pose: Pose) -> Pixels:
    """(H, W, 3) -> (size, size, 3), bilinear; strongly reduced images are averaged first, against aliasing."""
    shrink = _shrink(image.shape[0], image.shape[1], size, pose)
    if shrink >= 2:
        reduced = (max(1, image.shape[1] // shrink), max(1, image.shape[0] // shrink))
        image = np.asarray(cv2.resize(image, reduced, interpolation=cv2.INTER_AREA), np.uint8)
    return _warp(image, size, pose, cv2.INTER_LINEAR, BORDER_COLOR)


def warp_label(label: Pixels, size: int, pose: Pose, taxonomy: Taxonomy) -> Pixels:
    """(H, W) ids -> (size, size), nearest; 255 outside. A mirrored pose swaps the left/right ids."""
    warped = _warp(label, size, pose, cv2.INTER_NEAREST, IGNORE)
    return np.asarray(cv2.LUT(warped, taxonomy.flip_lut()), np.uint8) if pose.flip else warped


def _warp(array: Pixels, size: int, pose: Pose, interpolation: int, border: int | tuple[int, ...]) -> Pixels:
    matrix = canvas_to_image(array.shape[0], array.shape[1], size, pose)
    if interpolation == cv2.INTER_NEAREST:
        # An odd margin puts every centre halfway between two pixels, and rounding to even would drop each second.
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


def augment(image: Pixels, label: Pixels, taxonomy: Taxonomy, size: int, pose: Pose) -> tuple[Pixels, Pixels]:
    """One training sample: (size, size, 3) RGB and (size, size) ids, both uint8, of an image (H, W, 3) and its label,
    whose resolution may be a fraction of the image's."""
    return warp_image(image, size, pose), warp_label(label, size, pose, taxonomy)
