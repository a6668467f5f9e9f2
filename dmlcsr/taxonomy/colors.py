"""Generates class colors that people can distinguish."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from .taxonomy import Color

_LEVELS = (0, 42, 85, 128, 170, 212, 255)
"""Levels of red, green and blue of the candidates, 343 in all."""
_RESERVED: tuple[Color, ...] = ((0, 0, 0), (128, 128, 128))
"""Black is the usual background and gray the color of ignored pixels; no generated color is near them."""


def distinct_colors(taken: Sequence[Color], count: int) -> list[Color]:
    """Generates `count` RGB colors that differ from each other and from `taken` as much as possible.

    Each color is the candidate with the largest distance in CIELAB to the nearest color so far, so the result depends
    on the arguments only.
    """
    axes = np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij")
    candidates = np.stack(axes, axis=-1).reshape(-1, 3)
    positions = _lab(candidates)
    nearest = np.full(len(candidates), np.inf)
    for color in (*_RESERVED, *taken):
        nearest = np.minimum(nearest, _distances(positions, _lab(np.array([color]))))
    found: list[Color] = []
    for _ in range(count):
        best = int(nearest.argmax())
        red, green, blue = candidates[best].tolist()
        found.append((red, green, blue))
        nearest = np.minimum(nearest, _distances(positions, positions[best]))
    return found


def _lab(colors: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(N, 3) RGB -> (N, 3) CIELAB."""
    scaled = (colors.reshape(-1, 1, 3) / 255).astype(np.float32)
    return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB), np.float32)[:, 0]


def _distances(positions: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(np.linalg.norm(positions - other, axis=1), np.float32)
