"""Legends: below the picture, whose pixels stay where they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmlcsr.taxonomy import CELEBAMASK_HQ, IGNORE
from pipelines.inference.overlay import comparison, with_legend


@given(st.integers(1, 90), st.integers(1, 400), st.sets(st.integers(0, 18), min_size=1))
def test_a_legend_leaves_the_picture_and_shows_the_colors_of_its_classes(height, width, parts):
    random = np.random.default_rng(0)
    picture = random.integers(0, 255, (height, width, 3), np.uint8)
    label = random.choice(sorted(parts), (height, width)).astype(np.uint8)
    framed = with_legend(picture, [label], CELEBAMASK_HQ)
    assert (framed[:height, :width] == picture).all()
    shown = {tuple(color) for color in framed[height:].reshape(-1, 3).tolist()}
    for part in range(1, 19):
        assert (CELEBAMASK_HQ.palette[part] in shown) == (part in label)


@pytest.mark.parametrize("value", [0, IGNORE])
def test_a_picture_without_classes_has_no_legend(value):
    picture = np.zeros((8, 8, 3), np.uint8)
    assert with_legend(picture, [np.full((8, 8), value, np.uint8)], CELEBAMASK_HQ).shape == (8, 8, 3)


def test_a_comparison_names_the_classes_of_both_label_maps():
    image = np.full((40, 60, 3), 200, np.uint8)
    before, after = np.full((40, 60), 1, np.uint8), np.full((40, 60), 10, np.uint8)
    legend = comparison(image, before, after, before != after, CELEBAMASK_HQ)[40:]
    shown = {tuple(color) for color in legend.reshape(-1, 3).tolist()}
    assert {CELEBAMASK_HQ.palette[1], CELEBAMASK_HQ.palette[10]} <= shown
