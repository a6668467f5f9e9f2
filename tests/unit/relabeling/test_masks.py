import json

import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from pipelines.relabeling.masks import brush_rle, coco_counts
from tests.support.brush import decode_brush
from tests.support.commands import DATA

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(masks)
def test_pycocotools_reads_the_same_mask_back(mask):
    encoded = {"size": list(mask.shape), "counts": coco_counts(mask)}
    assert (coco.decode(encoded) == mask).all()
    assert encoded["counts"] == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def test_long_runs_and_rising_and_falling_ones_are_those_of_pycocotools():
    rows, columns = np.mgrid[:300, :500]
    for mask in (rows * columns % 977 < 400, (rows - 150) ** 2 + (columns - 250) ** 2 < 9000, rows < 0, rows >= 0):
        assert coco_counts(mask) == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@given(masks)
def test_brush_bytes_decode_by_the_published_format(mask):
    assert (decode_brush(brush_rle(mask)).reshape(*mask.shape, 4) == mask[..., None] * np.uint8(255)).all()


def test_brush_bytes_are_those_of_label_studios_own_encoder():
    """The file holds what `label_studio_sdk.converter.brush.encode_rle` 2.1.2 gives for the same masks."""
    cases = json.loads((DATA / "label_studio_rle.json").read_text())
    assert {case["name"] for case in cases} >= {"empty", "full", "checked", "long run"}
    for case in cases:
        ours = brush_rle(mask_of(case["name"]))
        assert case["rle"] in (ours, [*ours, 0]), case["name"]  # that encoder may add an empty byte


def mask_of(name):
    if name == "long run":  # longer than one run can say
        mask = np.zeros((300, 300), np.bool_)
        mask[250:, 17:] = True
        return mask
    rows, columns = np.mgrid[:9, :14]
    return {
        "empty": np.zeros((9, 14), np.bool_),
        "full": np.ones((9, 14), np.bool_),
        "checked": (rows + columns) % 2 == 0,
        "disc": (rows - 4) ** 2 + (columns - 6) ** 2 < 15,
    }[name]
