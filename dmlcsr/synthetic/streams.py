"""Random streams of the synthetic faces: one independent generator per (seed, index, purpose).

Separate streams keep the parts of a face independent: the camera may draw as many numbers as there are pixels,
and label noise may be switched on, without moving anything in the picture.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a generator is for. The values are part of the data's identity: append, never renumber."""

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
    """The generator of one purpose for face `index` of `seed`. Raises ValueError for negative numbers."""
    check_identity(seed, index)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, int(stream)])))


def face_id(seed: int, index: int) -> str:
    """Name of a face, "s0-000123"; sorts by index up to a million faces. Raises ValueError for negatives."""
    check_identity(seed, index)
    return f"s{seed}-{index:06d}"
