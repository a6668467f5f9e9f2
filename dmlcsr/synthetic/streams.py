"""Random streams of the synthetic faces: one independent generator per (seed, index, purpose).

Separate streams keep the parts of a picture independent: the camera may draw a number for every pixel, and label noise
may be switched on, and nothing else in the picture changes.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The purpose of a generator. The values are part of the data's identity: append new ones, never renumber."""

    FACE = 0
    TEXTURE = 1
    BACKGROUND = 2
    SECOND_FACE = 3
    SECOND_TEXTURE = 4
    CAMERA = 5
    CORRUPTION = 6
    CORRUPTED = 7


def check_identity(seed: int, index: int) -> None:
    """Raises ValueError for a negative seed or index."""
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got seed={seed}, index={index}")


def generator(seed: int, index: int, stream: Stream) -> np.random.Generator:
    """The generator of one purpose for face `index` of `seed`. Raises ValueError for a negative seed or index."""
    check_identity(seed, index)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, int(stream)])))


def face_id(seed: int, index: int) -> str:
    """The name of a face, as "s0-000123". Names sort by index up to a million faces.

    Raises ValueError for a negative seed or index.
    """
    check_identity(seed, index)
    return f"s{seed}-{index:06d}"
