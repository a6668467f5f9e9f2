"""Encoded images and labels, as they are stored, to and from pixels."""

import cv2
import numpy as np
import numpy.typing as npt

from dmlcsr.taxonomy import IGNORE

Pixels = npt.NDArray[np.uint8]


def decode_image(data: bytes) -> Pixels:
    """Encoded bytes -> (H, W, 3) uint8 RGB, turned upright by its EXIF tag. Raises ValueError for damaged bytes."""
    return _decode(data, cv2.IMREAD_COLOR_RGB)


def decode_label(data: bytes | None) -> Pixels:
    """PNG bytes -> (H, W) uint8 ids; an unlabelled row gives a single pixel of 255.

    Raises ValueError for damaged bytes.
    """
    if data is None:
        return np.full((1, 1), IGNORE, np.uint8)
    return _decode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)


def _decode(data: bytes, flags: int) -> Pixels:
    cv2.setNumThreads(1)  # a task has one core; OpenCV would take all
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # no bytes at all, or more pixels than OpenCV is allowed to decode
        raise ValueError(f"{len(data)} bytes cannot be decoded as an image: {error.err}") from error
    if pixels is None:
        raise ValueError(f"{len(data)} bytes cannot be decoded as an image; the file is damaged")
    return np.asarray(pixels, np.uint8)


def encode_png(image: Pixels) -> bytes:
    """(H, W, 3) RGB or (H, W) ids -> PNG."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return cv2.imencode(".png", pixels)[1].tobytes()
