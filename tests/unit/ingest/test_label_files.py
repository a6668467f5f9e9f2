"""Labels that are published in parts, composed and checked without Ray."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from dmlcsr.taxonomy import CELEBAMASK_HQ, LAPA
from pipelines.ingest import checks, label_files
from pipelines.ingest.checks import BadSampleError

CLASSES = CELEBAMASK_HQ.classes


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def saved(image, kind="PNG", **more):
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def bars(*parts, size=8):
    """Masks of parts; each covers the columns from its place on."""
    masks = {}
    for number, part in enumerate(parts):
        mask = np.zeros((size, size), np.uint8)
        mask[:, number:] = 255
        masks[part] = png(mask)
    return masks


def test_a_later_id_paints_over_an_earlier_one():
    label = label_files.paint_parts(bars("skin", "nose", "cloth", "neck"), "ids")
    assert [CLASSES[value] for value in label[0, :5]] == ["skin", "nose", "cloth", "cloth", "cloth"]


def test_with_accessories_last_cloth_and_neck_are_below_and_glasses_above():
    order = ("eye_g", "cloth", "neck", "skin", "nose", "hair", "neck_l")
    label = label_files.paint_parts(bars(*order), "accessories_last")
    names = [CLASSES[value] for value in label[0, :7]]
    assert names == ["eye_g", "eye_g", "eye_g", "eye_g", "eye_g", "eye_g", "neck_l"]
    label = label_files.paint_parts(bars("skin", "cloth", "neck"), "accessories_last")
    assert [CLASSES[value] for value in label[0, :3]] == ["skin", "skin", "skin"]


def test_both_orders_paint_every_part_once():
    for order in label_files.PAINT_ORDERS.values():
        assert sorted(order) == sorted(CLASSES[1:])


@given(hnp.arrays(np.uint8, (3, 6, 5), elements=st.integers(0, 255)))
@settings(max_examples=30, deadline=None)
def test_any_colour_above_zero_belongs_to_the_part(color):
    mask = np.moveaxis(color, 0, -1)
    label = label_files.paint_parts({"hair": png(mask)}, "ids")
    assert (label == np.where(mask.any(-1), CLASSES.index("hair"), 0)).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA"])
def test_masks_of_every_mode_are_read(mode):
    grey = np.zeros((6, 6), np.uint8)
    grey[:, 3:] = 255
    image = Image.fromarray(grey).convert(mode)
    label = label_files.paint_parts({"nose": saved(image)}, "ids")
    assert (label == 2 * (grey > 0)).all()


def test_masks_of_different_sizes_are_no_label():
    masks = bars("skin") | bars("nose", size=9)
    with pytest.raises(BadSampleError) as caught:
        label_files.paint_parts(masks, "ids")
    assert caught.value.reason == "label_size"


def test_a_damaged_mask_names_its_part():
    with pytest.raises(BadSampleError, match="part nose") as caught:
        label_files.paint_parts(bars("skin") | {"nose": bars("nose")["nose"][:-25]}, "ids")
    assert caught.value.reason == "undecodable"


@given(hnp.arrays(np.uint8, (11, 5, 4)))
@settings(max_examples=50, deadline=None)
def test_the_most_probable_class_wins_and_the_lowest_id_a_tie(maps):
    label = label_files.most_probable({f"{number:02d}": png(values) for number, values in enumerate(maps)})
    assert (label == maps.argmax(0)).all()


def reason_of(check, data):
    with pytest.raises(BadSampleError) as caught:
        check(data)
    return caught.value.reason


def bomb(side=30_000):
    """A real PNG of side x side black pixels, one bit each: 900 million pixels in a few hundred kB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((side + 7) // 8 + 1) * side, 1)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_from_its_header():
    assert reason_of(checks.check_image, bomb()) == "too_large"
    assert reason_of(checks.decode_ids, bomb()) == "too_large"


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.fromarray(np.full((8, 8, 4), 9, np.uint8), "CMYK"), "JPEG"),
        (Image.fromarray(np.full((8, 8), 999, np.uint16)), "PNG"),
        (Image.fromarray(np.full((8, 8), 999, np.uint16)), "TIFF"),
    ],
)
def test_cmyk_and_16_bit_images_are_refused(image, kind):
    assert reason_of(checks.check_image, saved(image, kind)) == "color_mode"


def test_16_bit_rgb_is_refused_too_though_pillow_would_cut_it_to_8():
    assert reason_of(checks.check_image, png(np.full((8, 8, 3), 999, np.uint16))) == "color_mode"


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_ids_of_shallow_grey_labels_are_not_stretched(depth):
    ids = (np.arange(16, dtype=np.uint8) % min(2**depth, 11)).reshape(4, 4)
    raw = b"".join(
        b"\x00" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - depth :].ravel()).tobytes() for row in ids
    )

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, depth, 0, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    if depth == 1:
        assert reason_of(checks.decode_ids, data) == "label_not_ids"
    else:
        assert (checks.decode_ids(data) == ids).all()


@pytest.mark.parametrize("pixels", [np.full((8, 8, 3), 1, np.uint8), np.full((8, 8), 1, np.uint16)])
def test_colours_and_16_bits_are_no_ids(pixels):
    assert reason_of(checks.decode_ids, png(pixels)) == "label_not_ids"


@pytest.mark.parametrize("data", [b"", b"text", saved(Image.new("RGB", (64, 64), "red"), "JPEG")[:400]])
def test_damaged_files_are_refused(data):
    assert reason_of(checks.check_image, data) in ("empty_file", "undecodable")


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_label_has_the_images_size_or_an_exact_fraction_of_it(height, width, by_height, by_width):
    label = np.zeros((height, width), np.uint8)
    size = height * by_height, width * by_width
    if by_height == by_width:
        checks.check_label(label, size, LAPA)
    else:
        assert reason_of(lambda data: checks.check_label(data, size, LAPA), label) == "label_size"
