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

from dmlcsr.image_files import BadSampleError
from dmlcsr.taxonomy import CELEBAMASK_HQ, LAPA
from pipelines.data import images
from pipelines.ingest import checks, label_files

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


PUBLISHED_ORDERS = {
    "ids": "skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair hat ear_r neck_l neck cloth",
    "farl": "neck skin cloth l_ear r_ear l_brow r_brow l_eye r_eye nose mouth l_lip u_lip hair eye_g hat ear_r neck_l",
    "bisenet": "skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r nose mouth u_lip l_lip neck neck_l cloth hair "
    "hat",
}


@pytest.mark.parametrize("order", PUBLISHED_ORDERS)
def test_every_pixel_of_a_stack_belongs_to_the_part_that_the_order_paints_last(order):
    """Part n of the stack covers the columns n, n + 1 and n + 2, so each pixel is claimed by up to three parts."""
    parts = CLASSES[1:]
    masks = {}
    for number, part in enumerate(parts):
        mask = np.zeros((2, len(parts) + 2), np.uint8)
        mask[:, number : number + 3] = 255
        masks[part] = png(mask)
    ranks = PUBLISHED_ORDERS[order].split()
    label = label_files.paint_parts(masks, order)
    for column in range(len(parts) + 2):
        claimed = [parts[number] for number in range(column - 2, column + 1) if 0 <= number < len(parts)]
        assert [CLASSES[part] for part in label[:, column]] == [max(claimed, key=ranks.index)] * 2


def test_the_orders_are_the_published_ones_and_paint_every_part_once():
    assert {name: " ".join(parts) for name, parts in label_files.PAINT_ORDERS.items()} == PUBLISHED_ORDERS
    assert all(sorted(order) == sorted(CLASSES[1:]) for order in label_files.PAINT_ORDERS.values())


COLORS = (((0, 0, 0), 0), ((255, 0, 0), 1), ((0, 0, 255), 4))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_become_the_ids_of_the_table(mode):
    ids = np.array([[0, 1], [2, 1]])
    pixels = np.array([color for color, _ in COLORS], np.uint8)[ids]
    label = label_files.single({"label": saved(Image.fromarray(pixels).convert(mode))}, COLORS)
    assert label.tolist() == [[0, 1], [4, 1]]


def test_a_colour_that_is_not_in_the_table_is_named_and_jpeg_is_refused():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[1, 2] = (1, 2, 3)
    with pytest.raises(BadSampleError, match=r"color \(1, 2, 3\) of 1 pixels") as caught:
        label_files.single({"label": saved(Image.fromarray(pixels))}, COLORS)
    assert caught.value.reason == "unknown_color"
    assert reason_of(lambda data: label_files.decode_colors(data, COLORS), saved(Image.fromarray(pixels), "JPEG")) == (
        "label_not_ids"
    )


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
        images.check_label(label, size, LAPA)
    else:
        assert reason_of(lambda data: images.check_label(data, size, LAPA), label) == "label_size"
