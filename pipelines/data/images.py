"""Encoded images and labels, as they are stored, to and from pixels."""

import cv2
import numpy as np
import numpy.typing as npt

from dmlcsr.taxonomy import IGNORE

Pixels = npt.NDArray[np.uint8]


JPEG_MAGIC = b"\xff\xd8"
_REDUCED = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8}
"""Flags for the size alone: OpenCV takes the colour's flag beside them."""


def decode_image(data: bytes, factor: int = 1) -> Pixels:
    """Encoded bytes -> (H, W, 3) uint8 RGB, turned upright by its EXIF tag. Raises ValueError for damaged bytes.

    With a factor of 2, 4 or 8 a JPEG is decoded at that part of its size, which saves time; others stay whole.
    """
    is_reduced = factor > 1 and data.startswith(JPEG_MAGIC)
    return _decode(data, cv2.IMREAD_COLOR_RGB | (_REDUCED[factor] if is_reduced else 0))


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


_LABEL_PNG = (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_COMPRESSION, 3)
"""Ids are no gradients: unfiltered they are as small as with OpenCV's defaults, and decode in a quarter of the time."""


def encode_png(image: Pixels) -> bytes:
    """(H, W, 3) RGB, (H, W, 4) RGBA or (H, W) ids -> PNG."""
    if image.ndim == 3:
        order = cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
        return cv2.imencode(".png", cv2.cvtColor(image, order))[1].tobytes()
    return cv2.imencode(".png", image, _LABEL_PNG)[1].tobytes()
