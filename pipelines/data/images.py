"""Decodes, checks and encodes the images and labels that are stored in a data set."""

import cv2
import numpy as np
import numpy.typing as npt

from dmlcsr.image_files import JPEG_MAGIC, BadSampleError, decode, decode_by_opencv
from dmlcsr.taxonomy import IGNORE, Taxonomy

Pixels = npt.NDArray[np.uint8]
_REDUCED = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8}
"""OpenCV flags by factor. They only reduce the size: `decode_image` adds a flag that decides the colors."""


def decode_image(data: bytes, factor: int = 1) -> Pixels:
    """Decodes an image to (H, W, 3) uint8 RGB, turned upright by its EXIF tag, transparent pixels on white.

    A factor of 2, 4 or 8 divides height and width of a JPEG, which saves time. Other formats keep their size. Raises
    ValueError for damaged bytes.
    """
    if factor > 1 and data.startswith(JPEG_MAGIC):
        return decode_by_opencv(data, cv2.IMREAD_COLOR_RGB | _REDUCED[factor])
    return decode(data)


def decode_label(data: bytes | None) -> Pixels:
    """Decodes a PNG to (H, W) uint8 ids. None, the label of an unlabelled row, gives (1, 1) with the id 255 (ignore).

    Raises ValueError for damaged bytes.
    """
    if data is None:
        return np.full((1, 1), IGNORE, np.uint8)
    return decode_by_opencv(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)


def fits(label_size: tuple[int, ...], image_size: tuple[int, int]) -> bool:
    """True if the height and width of the image are those of the label, times the same integer."""
    factor = image_size[0] // label_size[0]
    return factor > 0 and (label_size[0] * factor, label_size[1] * factor) == image_size


def check_label(label: Pixels, image_size: tuple[int, int], taxonomy: Taxonomy) -> None:
    """Raises BadSampleError if a (H, W) label does not fit the image, or holds an id that is not in the taxonomy.

    The height and width of the image must be those of the label, times the same integer.
    """
    height, width = image_size
    if not fits(label.shape, image_size):
        raise BadSampleError("label_size", f"label {label.shape[1]}x{label.shape[0]}, image {width}x{height}")
    if (wrong := label[(label >= taxonomy.num_classes) & (label != IGNORE)]).size:
        raise BadSampleError("unknown_id", f"ids {np.unique(wrong).tolist()} are not in {taxonomy.name}")


_LABEL_PNG = (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_COMPRESSION, 3)
"""PNG filters are for gradients. Without them a label is as small as with OpenCV's defaults, and decodes in a quarter
of the time."""


def encode_png(image: Pixels) -> bytes:
    """Encodes (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) ids, uint8, as PNG."""
    if image.ndim == 3:
        order = cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
        return cv2.imencode(".png", cv2.cvtColor(image, order))[1].tobytes()
    return cv2.imencode(".png", image, _LABEL_PNG)[1].tobytes()
