import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmlcsr.quality import QualityScores
from dmlcsr.refine import Refined
from dmlcsr.taxonomy import LAPA
from pipelines.relabeling.counts import MAX_SUSPECTS, RelabelCounts

CLASSES = LAPA.num_classes


def refined(quality=None, pairs=((1, 1, 5), (1, 10, 2))):
    counts = np.zeros((CLASSES + 1, CLASSES + 1), np.int64)
    for before, after, pixels in pairs:
        counts[before, after] += pixels
    scores = None if quality is None else QualityScores(quality, [quality, quality / 2, *[None] * (CLASSES - 2)])
    return Refined(np.zeros((2, 2), np.uint8), "replace", scores, 0.5, counts)


rows = st.lists(
    st.builds(
        refined,
        st.none() | st.floats(0, 1),
        st.lists(st.tuples(*[st.integers(0, CLASSES)] * 2, st.integers(1, 9)), min_size=1, max_size=4),
    ),
    max_size=20,
)


def tallied(items, path="train/part-00000.parquet", first=0):
    tally = RelabelCounts.zeros(CLASSES)
    for place, item in enumerate(items):
        tally.add(item, f"row-{first + place}", place)
    tally.set_path(path)
    return tally


@given(rows, st.integers(0, 20))
def test_parts_that_travel_as_json_add_up_to_the_whole(items, cut):
    total = RelabelCounts.zeros(CLASSES)
    for part in (tallied(items[:cut]), tallied(items[cut:], "train/part-00001.parquet", cut)):
        total += RelabelCounts.from_dict(json.loads(json.dumps(part.to_dict())))
    whole = tallied(items)
    assert total.num_rows == len(items) and total.num_changed_rows == whole.num_changed_rows
    assert total.mean_quality == pytest.approx(whole.mean_quality)
    assert (total.pairs == whole.pairs).all() and np.allclose(total.class_quality, whole.class_quality)
    scored = sorted((suspect.quality, suspect.id) for suspect in total.worst)
    assert scored == sorted((suspect.quality, suspect.id) for suspect in whole.worst)
    files = {suspect.id: f"train/part-{int(suspect.id[4:]) >= cut:05d}.parquet" for suspect in total.worst}
    assert {suspect.id: suspect.path for suspect in total.worst} == files


def test_the_worst_rows_are_kept_with_where_they_are():
    rng = np.random.default_rng(0)
    qualities = rng.random(3 * MAX_SUSPECTS)
    kept = tallied([refined(quality) for quality in qualities]).to_dict()["worst"]
    assert [suspect.quality for suspect in kept] == sorted(qualities)[:MAX_SUSPECTS]
    assert all(qualities[suspect.row] == suspect.quality for suspect in kept)


def test_the_summary_names_confused_classes_most_pixels_first():
    told = tallied([refined(0.4), refined(0.8, ((0, 1, 9), (CLASSES, 0, 3)))]).summary(LAPA)
    assert list(told["changed_pixels"].items()) == [
        ("background > skin", 9),
        ("ignored > background", 3),
        ("skin > hair", 2),
    ]
    assert told["mean_quality"] == pytest.approx(0.6)
    assert told["class_quality"] == pytest.approx({"background": 0.6, "skin": 0.3})
    assert (told["num_pixels"], told["num_changed_pixels"], told["num_changed_rows"]) == (19, 14, 2)


def test_without_labels_there_is_no_quality():
    assert tallied([refined()]).summary(LAPA)["mean_quality"] is None
