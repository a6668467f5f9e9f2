"""Photos of all kinds: which are read, how they look, and why the others are refused."""

import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from dmlcsr.image_files import BadSampleError, photo_formats, read_image
from pipelines.data.images import decode_image
from pipelines.ingest import checks
from tests.support.commands import DATA

MAGENTA, WHITE = (255, 0, 255), (255, 255, 255)
HEIC = (DATA / "turned.heic").read_bytes()
"""A ramp of gray, dark at its top, with a red corner; turned by a quarter to the right. Drawn for this test."""


def saved(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def turned():
    """The tag that turns a picture by a quarter to the right. Pillow takes it out when it writes AVIF."""
    tags = Image.Exif()
    tags[0x0112] = 6
    return tags


def ramp():
    """Dark on its left, with a red corner below: with a tag that turns it by a quarter it is red at the upper left."""
    pixels = np.repeat(np.arange(0, 240, 4, np.uint8)[None], 40, 0)
    pixels = np.dstack([pixels] * 3)
    pixels[-20:, :20] = (255, 0, 0)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_turned_photo_comes_out_upright(kind):
    picture = read_image(saved(ramp(), kind, exif=turned()))
    assert picture.shape == (60, 40, 3)
    assert picture[8, 8, 0] > 200 and picture[8, 8, 1] < 60, "red at the upper left"
    assert picture[-3].mean() > 200


def test_a_turned_heic_photo_comes_out_upright():
    picture = read_image(HEIC)
    assert picture.shape == (80, 60, 3)
    assert picture[8, -8].tolist() == pytest.approx([255, 0, 0], abs=8), "red at the upper right"


def test_without_its_extra_a_heic_photo_is_refused_with_the_name_of_the_extra():
    program = (
        "import sys; sys.modules['pi_heif'] = None\n"
        "from dmlcsr.image_files import read_image\n"
        "read_image(open(sys.argv[1], 'rb').read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(DATA / "turned.heic")], capture_output=True, text=True, check=False
    )
    assert "dmlcsr[heif]" in done.stderr.splitlines()[-1]


def cut_out(mode="RGBA"):
    """A green square on transparent pixels whose hidden color is magenta."""
    image = Image.new("RGBA", (8, 6), (*MAGENTA, 0))
    image.paste((0, 255, 0, 255), (0, 0, 4, 6))
    return image.quantize(8) if mode == "P" else image


CUT_OUTS = {
    "PNG": saved(cut_out(), "PNG"),
    "palette PNG": saved(cut_out("P"), "PNG"),
    "key color PNG": saved(cut_out().convert("RGB"), "PNG", transparency=MAGENTA),
    "gray PNG": saved(Image.fromarray(np.array([[[0, 255], [99, 0]]], np.uint8), "LA"), "PNG"),
    "WebP": saved(cut_out(), "WEBP", lossless=True, exact=True),
    "TIFF": saved(cut_out(), "TIFF"),
    "GIF": saved(cut_out(), "GIF"),
}


@pytest.mark.parametrize("kind", CUT_OUTS)
@pytest.mark.parametrize("read", [read_image, decode_image])
def test_transparent_pixels_are_white_and_opaque_ones_keep_their_color(read, kind):
    picture = read(CUT_OUTS[kind])
    assert picture[0, -1].tolist() == list(WHITE)
    assert picture[0, 0].tolist() == ([0, 0, 0] if kind == "gray PNG" else [0, 255, 0])


def test_half_transparent_pixels_are_mixed_with_white():
    picture = read_image(saved(Image.new("RGBA", (4, 4), (0, 100, 255, 51)), "PNG"))
    assert picture[0, 0].tolist() == pytest.approx([204, 224, 255], abs=1)


def test_a_transparent_avif_photo_is_on_white():
    picture = read_image(saved(cut_out(), "AVIF", quality=100))
    assert picture[0, -1].tolist() == pytest.approx(WHITE, abs=4)


def test_a_turned_cut_out_is_packed_with_the_size_at_which_it_is_trained_on():
    image = ramp().convert("RGBA")
    image.putalpha(99)
    data = saved(image, "PNG", exif=turned())
    assert checks.check_image(data) == decode_image(data).shape[:2] == (60, 40)


REFUSED = {
    "CMYK": (saved(Image.new("CMYK", (8, 8)), "JPEG"), "color_mode"),
    "16-bit PNG": (cv2.imencode(".png", np.full((8, 8, 3), 999, np.uint16))[1].tobytes(), "color_mode"),
    "16-bit TIFF": (cv2.imencode(".tiff", np.full((8, 8, 3), 999, np.uint16))[1].tobytes(), "color_mode"),
    "float TIFF": (cv2.imencode(".tiff", np.full((8, 8), 0.5, np.float32))[1].tobytes(), "color_mode"),
    "cut off": (saved(ramp(), "JPEG")[:400], "undecodable"),
    "text": (b"not an image", "undecodable"),
    "empty": (b"", "empty_file"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("read", [read_image, checks.check_image])
def test_photos_and_samples_are_refused_for_the_same_reasons(read, kind):
    data, reason = REFUSED[kind]
    with pytest.raises(BadSampleError) as refused:
        read(data)
    assert refused.value.reason == reason


@pytest.mark.parametrize("data", [saved(ramp(), "AVIF"), HEIC], ids=["AVIF", "HEIC"])
def test_what_training_cannot_decode_is_not_packed(data):
    with pytest.raises(BadSampleError, match="convert the image to PNG or JPEG") as refused:
        checks.check_image(data)
    assert refused.value.reason == "undecodable"
    assert read_image(data).ndim == 3


def test_the_extra_is_part_of_the_environment_of_the_tests():
    assert photo_formats()[-2:] == ("AVIF", "HEIF")


def test_a_gif_is_an_image_of_a_data_set():
    data = saved(ramp(), "GIF")
    assert checks.check_image(data) == decode_image(data).shape[:2] == (40, 60)
