"""Light on the skin: a small relief of the turned face is lit, pigmented, and warped into the picture.

The relief is a fixed grid in the turned head frame, so the shading is the same at any picture size.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

from .canvas import Image
from .curves import PointList, ellipse
from .head import Head
from .texture import Field, value_noise

_GRID = 112
_LOW, _HIGH = -1.3, 1.3  # extent of the relief, u and v alike
_AXIS = np.linspace(_LOW, _HIGH, _GRID, dtype=np.float32)
_STEP = float(_AXIS[1] - _AXIS[0])

# Bumps of the relief: (u, v, width u, width v, height). Mirrored where u > 0.
_RELIEF = (
    (0.0, 0.02, 0.055, 0.2, 0.085), (0.0, 0.3, 0.085, 0.075, 0.16), (0.115, 0.33, 0.05, 0.05, 0.055),
    (0.3, -0.01, 0.15, 0.08, -0.075), (0.13, -0.05, 0.05, 0.07, -0.045), (0.28, -0.2, 0.2, 0.05, 0.035),
    (0.4, 0.24, 0.15, 0.13, 0.06), (0.0, 0.87, 0.13, 0.09, 0.075), (0.0, 0.48, 0.035, 0.05, -0.014),
    (0.0, 0.75, 0.13, 0.035, -0.04), (0.0, 0.6, 0.24, 0.12, 0.05), (0.2, -0.48, 0.22, 0.17, 0.03),
)  # fmt: skip


def skin_texture(head: Head, rng: np.random.Generator, size: int) -> Image:
    """(S, S, 3) uint8 texture of the lit skin; only the pixels that the skin covers are meaningful."""
    face = head.face
    shade, gloss = _lighting(head)
    noise = value_noise(rng, _GRID, (12, 40, 112))
    albedo = _pigment(head, rng) * np.asarray(face.skin.color, np.float32)[:, None, None]
    albedo *= 1 + np.float32(0.028) * noise
    albedo = _bearded(albedo, head, rng)
    lit = albedo * shade + np.float32(255 * face.skin.gloss) * gloss
    return _warp(np.asarray(cv2.convertScaleAbs(cv2.merge(list(lit))), np.uint8), head, size)


def _lighting(head: Head) -> tuple[Field, Field]:
    """(G, G) diffuse factor (ambient..1.06) and (G, G) gloss (0..1) of the relief."""
    light = head.face.light
    height = _ball(head) + _bumps(head)
    dv, du = np.gradient(height, _STEP)
    length = np.sqrt(du**2 + dv**2 + 1)
    lx, ly, lz = _unit(light.direction)
    lambert = np.maximum((lz - du * lx - dv * ly) / length, 0)
    hx, hy, hz = _unit((lx, ly, lz + 1))  # half-way between the light and the viewer
    gloss = np.maximum((hz - du * hx - dv * hy) / length, 0)
    for _ in range(5):  # to the power of 32, cheaply
        gloss *= gloss
    return (light.ambient + (1.06 - light.ambient) * lambert).astype(np.float32), gloss.astype(np.float32)


def _unit(vector: tuple[float, float, float]) -> tuple[float, float, float]:
    length = math.hypot(*vector)
    return vector[0] / length, vector[1] / length, vector[2] / length


def _ball(head: Head) -> Field:
    """The rough shape of the head: an upright ellipsoid around the middle of the turned face."""
    center = head.turn_outline([(0.0, 0.1)])[0].tolist()
    across = ((_AXIS - center[0]) / (head.half_width * 1.12)) ** 2
    along = ((_AXIS - center[1] + 0.1) / 1.2) ** 2
    return np.asarray(0.62 * np.sqrt(np.maximum(1 - across[None, :] - along[:, None], 0.012)), np.float32)


def _bumps(head: Head) -> Field:
    face = head.face
    smile = max(face.mouth.smile, 0.0)
    relief = [*_RELIEF, (0.27, 0.47, 0.035, 0.1, -0.03 * (0.3 + smile + 0.8 * face.skin.age))]
    if face.skin.age > 0.35:
        relief += [(0.0, v, 0.28, 0.012, -0.012 * face.skin.age) for v in (-0.36, -0.42, -0.49)]
        relief += [(0.3, 0.1, 0.12, 0.018, -0.022 * face.skin.age), (0.5, 0.0, 0.05, 0.02, -0.015 * face.skin.age)]
    rows = [r for bump in relief for r in ((bump, (-bump[0], *bump[1:])) if bump[0] else (bump,))]
    table = np.asarray(rows, np.float64)
    return np.asarray(_gaussians(head, table[:, :2], table[:, 2:4], table[:, 4:])[0], np.float32)


def _gaussians(
    head: Head, centers: PointList, widths: npt.NDArray[np.float64], amounts: npt.NDArray[np.float64]
) -> Field:
    """The sum of K axis-aligned Gaussian blobs on the face, for each of C channels: amounts (K, C) -> (C, G, G)."""
    at, spread, weight = (a.astype(np.float32) for a in (head.turn(centers), widths, amounts))
    across = np.exp(-(((_AXIS[None] - at[:, :1]) / (spread[:, :1] * head.cos)) ** 2))
    along = np.exp(-(((_AXIS[None] - at[:, 1:]) / spread[:, 1:]) ** 2))
    num, channels = weight.shape
    weighted = (weight[:, :, None] * along[:, None, :]).reshape(num, channels * _GRID)
    # OpenCV's product stays on the calling thread; BLAS would start threads of its own in every worker.
    nothing = np.zeros((channels * _GRID, _GRID), np.float32)
    total = cv2.gemm(weighted, across, 1, nothing, 0, flags=cv2.GEMM_1_T)
    return np.asarray(total, np.float32).reshape(channels, _GRID, _GRID)


def _pigment(head: Head, rng: np.random.Generator) -> Field:
    """(3, G, G) factor on the skin's color: blush on cheeks and nose, dark rings, makeup, freckles and moles."""
    skin, eyes = head.face.skin, head.face.eyes
    red = np.array([-0.01, -0.13, -0.1]) * skin.blush
    ring = np.array([-0.1, -0.13, -0.1]) * (0.3 + 0.8 * skin.age)
    lid = np.array([-0.28, -0.36, -0.28]) * eyes.makeup
    spots = [((s * 0.4, 0.26), (0.16, 0.12), red) for s in (-1, 1)] + [((0.0, 0.3), (0.1, 0.08), red)]
    spots += [((s * eyes.gap, 0.09), (0.12, 0.03), ring) for s in (-1, 1)]
    spots += [((s * eyes.gap, -0.08), (0.13, 0.05), lid) for s in (-1, 1)]
    num = round(90 * skin.freckles) + int(rng.integers(0, 4))
    for u, v in zip(rng.normal(0, 0.3, num).tolist(), rng.normal(0.2, 0.16, num).tolist(), strict=True):
        spots.append(((u, v), (0.016, 0.016), np.array([-0.14, -0.2, -0.24]) * rng.uniform(0.4, 1.1)))
    channels = _gaussians(head, [s[0] for s in spots], np.array([s[1] for s in spots]), np.array([s[2] for s in spots]))
    return np.asarray(np.maximum(1 + channels, 0.3), np.float32)


def _bearded(albedo: Field, head: Head, rng: np.random.Generator) -> Field:
    """(3, G, G) color of the skin mixed with facial hair, which is labelled skin as in CelebAMask-HQ."""
    skin = head.face.skin
    if skin.beard == "none":
        return albedo
    mask = _beard_mask(head)
    density = {"stubble": 0.45, "full": 0.97, "goatee": 0.9, "moustache": 0.95}[skin.beard]
    grain = np.clip(0.8 + 0.45 * value_noise(rng, _GRID, (64, 112)), 0, 1)
    weight = (density * mask * grain).astype(np.float32)
    beard = np.asarray(skin.beard_color, np.float32)[:, None, None]
    return np.asarray(albedo + weight * (beard - albedo), np.float32)


def _beard_mask(head: Head) -> Field:
    """(G, G) mask, 0..1, of the region in which this kind of beard grows."""
    kind, mouth = head.face.skin.beard, head.face.mouth
    w, low = head.half_width, mouth.height + 0.5 * mouth.opening + mouth.lower
    moustache = [(-0.3, 0.6), (-0.16, 0.47), (0.0, 0.455), (0.16, 0.47), (0.3, 0.6), (0.2, 0.57), (-0.2, 0.57)]
    chin = [(-0.3, 0.58), (-0.22, low), (0.22, low), (0.3, 0.58), (0.34, 0.85), (0.18, 1.05), (-0.18, 1.05),
            (-0.34, 0.85)]  # fmt: skip
    jaw = [(-w, 0.1), (-0.82 * w, 0.4), (-0.4, 0.58), (-0.22, low), (0.22, low), (0.4, 0.58), (0.82 * w, 0.4),
           (w, 0.1), (w, 0.8), (0.3, 1.12), (-0.3, 1.12), (-w, 0.8)]  # fmt: skip
    shapes = {"moustache": [moustache], "goatee": [moustache, chin]}.get(kind, [moustache, jaw])
    mask = np.zeros((_GRID, _GRID), np.uint8)
    for shape in shapes:
        cv2.fillPoly(mask, [np.rint((head.turn(shape) - _LOW) / _STEP).astype(np.int32)], 255)
    lips = ellipse((0.0, mouth.height), (mouth.width * 0.9, 0.5 * mouth.opening + 0.05))
    cv2.fillPoly(mask, [np.rint((head.turn(lips) - _LOW) / _STEP).astype(np.int32)], 0)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 2.2), np.float32) * np.float32(1 / 255)


def _warp(texture: Image, head: Head, size: int) -> Image:
    corners = np.array([(_LOW, _LOW), (_HIGH, _LOW), (_LOW, _HIGH)])
    target = (head.place(corners) * size - 0.5).astype(np.float32)
    source = ((corners - _LOW) / _STEP).astype(np.float32)
    matrix = cv2.getAffineTransform(source, target)
    warped = cv2.warpAffine(texture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)
