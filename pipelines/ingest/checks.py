"""Checks of raw files before they are packed. A file whose header states too many pixels is not decoded."""

import io

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from dmlcsr.image_files import FORMATS, BadSampleError, bit_depth, is_iso_media, open_color_image, open_image

_EXIF_ORIENTATION = 0x0112


def check_image(data: bytes) -> tuple[int, int]:
    """(height, width) of an image as decoded, that is after EXIF rotation.

    Raises BadSampleError if it is not one that training can decode: see `dmlcsr.image_files.open_color_image`, and
    OpenCV must decode it too.
    """
    if is_iso_media(data):  # not every build of OpenCV decodes AVIF, and none turns it upright
        raise BadSampleError("undecodable", "AVIF and HEIC are not packed; convert the image to PNG or JPEG")
    image = open_color_image(data)
    if image.format != "JPEG" and not opencv_decodes(data):
        raise BadSampleError("undecodable", f"OpenCV cannot decode this {image.format} of mode {image.mode}")
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def orientation(data: bytes) -> int:
    """The EXIF orientation of an image that `check_image` accepted: 1 upright .. 8; 5 to 8 swap height and width."""
    if data.startswith(b"\x89PNG") and b"eXIf" not in data:
        return 1  # Pillow would decode all pixels to find none
    found = Image.open(io.BytesIO(data), formats=FORMATS).getexif().get(_EXIF_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def opencv_decodes(data: bytes) -> bool:
    """True if OpenCV, with which training decodes, can decode the file."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) is not None


def decode_ids(data: bytes) -> npt.NDArray[np.uint8]:
    """Decodes a gray or palette PNG to (H, W) uint8 ids; the ids of a palette PNG are its indices.

    Raises BadSampleError for any other file: color images and lossy formats hold no ids.
    """
    image = open_image(data)
    if image.format != "PNG" or image.mode not in ("L", "P"):
        raise BadSampleError(
            "label_not_ids", f"{image.format} of mode {image.mode}; expected an 8-bit gray or palette PNG"
        )
    values = np.asarray(image, np.uint8)
    # Pillow stretches gray of 2 or 4 bits to 0..255 when it reads a file; the ids are the original values.
    return values if image.mode == "P" else values // np.uint8(255 // (2 ** bit_depth(data) - 1))


def is_plain_png(data: bytes) -> bool:
    """True if a PNG is 8-bit gray, as in a packed data set. A palette PNG is not: OpenCV would read its colors."""
    return data[24:26] == b"\x08\x00"
