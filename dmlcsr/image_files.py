"""Reads images from the bytes of their files: checks them, and decodes them to upright RGB.

Transparent pixels are shown on white. Their own colors are hidden, and some programs leave magenta or noise there.
"""

import io
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin

Pixels = npt.NDArray[np.uint8]
MAX_PIXELS = 100_000_000
"""Limit on height x width. Larger images are rejected before they are decoded: a small file can state any size."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""The formats of data sets, which Pillow and OpenCV read, whatever a file's name says.

Pillow may read no others: for some it starts external programs.
"""
JPEG_MAGIC = b"\xff\xd8"
_COLOR_MODES = ("RGB", "RGBA", "L", "LA", "P", "1")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc")
_BITS_PER_SAMPLE = 258
"""The tag of TIFF."""


class BadSampleError(ValueError):
    """An image, or a sample, that cannot be used; `reason` is its key in the quarantine table."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@cache
def photo_formats() -> tuple[str, ...]:
    """The formats that `read_image` accepts: FORMATS, AVIF, and HEIC if the extra `heif` is installed."""
    try:
        from pi_heif import register_heif_opener
    except ImportError:
        return (*FORMATS, "AVIF")
    register_heif_opener()
    return (*FORMATS, "AVIF", "HEIF")


def open_image(data: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Checks the header of a file, then decodes all of it.

    Raises BadSampleError if the file is empty, damaged or cut off, or if its header states more than MAX_PIXELS.
    """
    image = _open_header(data, formats)
    try:
        image.load()
    except Exception as error:  # Pillow's readers raise many kinds of error for broken files
        raise BadSampleError("undecodable", f"damaged {image.format} image: {error}") from error
    return image


def open_color_image(data: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Opens an image whose colors are 8-bit RGB or gray. Raises BadSampleError for any other file.

    The colors of a CMYK image depend on its profile, and 16 bits would be cut to 8.
    """
    image = open_image(data, formats)  # unlike OpenCV, Pillow rejects a truncated JPEG
    bits = _bits_per_sample(image, data)
    if image.mode not in _COLOR_MODES or bits > 8:
        found = f"{image.format} of mode {image.mode} with {bits} bits"
        raise BadSampleError("color_mode", f"{found}; expected 8-bit RGB or gray")
    return image


def read_image(data: bytes) -> Pixels:
    """Checks a photo as `ingest` does, and decodes it to (H, W, 3) uint8 RGB. Reads AVIF and HEIC too.

    Raises BadSampleError if the file is no image, damaged, too large, or neither 8-bit RGB nor gray.
    """
    formats = photo_formats()
    if "HEIF" not in formats and is_iso_media(data) and any(brand in data[8:64] for brand in _HEIC_BRANDS):
        raise BadSampleError("undecodable", "HEIC needs the extra `heif`: pip install 'dmlcsr[heif]'")
    image = open_color_image(data, formats)
    if image.format in ("AVIF", "HEIF"):  # OpenCV would ignore how they are turned
        return _upright_on_white(image)
    return decode(data)


def is_iso_media(data: bytes) -> bool:
    """True if a file is AVIF, HEIC or a video: containers of the same kind."""
    return data[4:8] == b"ftyp"


def decode(data: bytes) -> Pixels:
    """Decodes an image of FORMATS to (H, W, 3) uint8 RGB, turned upright by its EXIF tag, transparency on white.

    Raises BadSampleError for damaged bytes.
    """
    if not data.startswith(JPEG_MAGIC) and _open_header(data, FORMATS).has_transparency_data:
        return _upright_on_white(open_image(data))
    return decode_by_opencv(data, cv2.IMREAD_COLOR_RGB)


def decode_by_opencv(data: bytes, flags: int) -> Pixels:
    """Decodes an image with flags of OpenCV. Raises BadSampleError for damaged bytes."""
    cv2.setNumThreads(1)  # OpenCV would use all cores, but a task has one
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # there are no bytes, or more pixels than OpenCV may decode
        detail = f"{len(data)} bytes cannot be decoded as an image: {error.err}"
        raise BadSampleError("undecodable", detail) from error
    if pixels is None:
        detail = f"{len(data)} bytes cannot be decoded as an image; the file is damaged"
        raise BadSampleError("undecodable", detail)
    return np.asarray(pixels, np.uint8)


def _open_header(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    if not data:
        raise BadSampleError("empty_file", "no content")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        raise BadSampleError("too_large", str(error)) from error
    except Exception as error:  # as in `open_image`
        known = ", ".join(formats)
        raise BadSampleError("undecodable", f"not an image, or a damaged one; known formats are {known}") from error
    if image.width * image.height > MAX_PIXELS:
        raise BadSampleError("too_large", f"{image.width}x{image.height} pixels; at most {MAX_PIXELS} are read")
    return image


def bit_depth(png: bytes) -> int:
    """The bits of a sample of a PNG, as its header states them."""
    return png[24]


def _bits_per_sample(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG":
        return bit_depth(data)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(np.max(image.tag_v2.get(_BITS_PER_SAMPLE, 1)))
    return 8  # the other formats have no more, or their decoders scale them


def _upright_on_white(image: Image.Image) -> Pixels:
    try:
        picture = ImageOps.exif_transpose(image).convert("RGBA")
    except Exception as error:  # as in `open_image`, for a damaged tag
        raise BadSampleError("undecodable", f"damaged {image.format} image: {error}") from error
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"), np.uint8)
