"""Surface textures: noise, color ramps, hair.

Noise is drawn on grids of a fixed size, so it looks the same at any picture size.
"""

import cv2
import numpy as np
import numpy.typing as npt

from .canvas import Color, Image

Field = npt.NDArray[np.float32]


def value_noise(rng: np.random.Generator, size: int, cells: tuple[int, ...]) -> Field:
    """(size, size) float32 smooth noise with a mean of about 0, mostly within -1..1.

    `cells` are the grid sizes of the octaves, from coarse to fine; finer octaves are weaker. The sum of the coarser
    octaves is enlarged to the next finer grid, and at the end to the full size.
    """
    total = np.zeros((1, 1), np.float32)
    for octave, n in enumerate(cells):
        grid = rng.random((n, n), dtype=np.float32) * np.float32(2) - np.float32(1)
        total = np.asarray(cv2.scaleAdd(grid, 0.6**octave, enlarged(total, n)), np.float32)
    return enlarged(total, size)


def enlarged(field: Field, size: int) -> Field:
    """Resamples a field bilinearly to (size, size)."""
    return np.asarray(cv2.resize(field, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


def ramp(gray: Image, dark: Color, light: Color) -> Image:
    """(H, W) uint8 -> (H, W, 3) uint8 colors from `dark` for 0 to `light` for 255."""
    steps = np.linspace(0, 1, 256)[:, None]
    lut = np.asarray(dark) * (1 - steps) + np.asarray(light) * steps
    table = np.clip(lut, 0, 255).astype(np.uint8)[None]
    return np.asarray(cv2.LUT(cv2.merge([gray, gray, gray]), table), np.uint8)


def to_gray(field: Field) -> Image:
    """Maps noise within -1..1 to uint8 0..255."""
    return np.asarray(cv2.convertScaleAbs(field, alpha=127.5, beta=127.5), np.uint8)


def strands(
    rng: np.random.Generator, size: int, crown: tuple[float, float], reach: float, waviness: float, light_angle: float
) -> Image:
    """(size, size) uint8 brightness of hair: streaks that run away from the crown, with a band of gloss.

    `crown` and `reach` (distance from the crown to the tips) are in unit image coordinates, `light_angle` in radians.
    """
    angles, radii = 640, 40
    polar = np.zeros((angles, radii), np.float32)
    for n, m, weight in ((320, 3, 0.3), (150, 3, 0.28), (40, 3, 0.2)):
        grid = rng.random((n, m), dtype=np.float32) * 2 - 1
        polar += np.asarray(cv2.resize(grid, (radii, angles), interpolation=cv2.INTER_LINEAR), np.float32) * weight
    radius = np.linspace(0, 1, radii, dtype=np.float32)
    wave = waviness * 14 * np.sin(radius * rng.uniform(8, 16) + rng.uniform(0, 6))
    rows = (np.arange(angles)[:, None] + wave.astype(np.int64)) % angles
    polar = polar[rows, np.arange(radii)]
    toward_light = 0.5 + 0.5 * np.cos(np.linspace(0, 2 * np.pi, angles, dtype=np.float32)[:, None] - light_angle)
    gloss = np.exp(-(((radius - 0.3) / 0.09) ** 2)) * toward_light * (0.75 + polar)
    polar = polar + 0.75 * gloss - 0.35 * radius - 0.15
    center = (crown[0] * size - 0.5, crown[1] * size - 0.5)
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS
    return np.asarray(cv2.warpPolar(to_gray(polar), (size, size), center, reach * size, flags), np.uint8)
