"""The scores of single images: the files of all of them, and the best and the worst."""

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.inference import image_scores
from pipelines.inference.image_scores import Extremes, ImageScore, PartWriter

SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=30)


@given(SCORES, st.integers(0, 9), st.integers(1, 7))
def test_the_extremes_are_the_ends_of_the_whole_ranking(values, num, batch):
    images = [ImageScore(value, row, f"row-{row}") for row, value in enumerate(values)]
    found = Extremes(num)
    for start in range(0, len(images), batch):
        found.add(images[start : start + batch])
    ranking = sorted(images, reverse=True)
    assert found.best == ranking[:num] and found.worst == ranking[::-1][:num]


@given(st.permutations(range(23)), st.integers(1, 30), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_rows_in_any_order_make_the_same_files(tmp_path_factory, order, part_rows, batch):
    scores = [None if row % 5 == 0 else row / 23 for row in range(23)]
    rows = [
        {"row": row, "id": f"row-{row}", "mean_f1": score, "reason": "" if score is not None else "undecodable"}
        for row, score in enumerate(scores)
    ]
    out = tmp_path_factory.mktemp("scores")
    stale = out / "images/part-00099.parquet"
    stale.parent.mkdir()
    stale.write_bytes(b"of an earlier evaluation")
    original, image_scores._PART_ROWS = image_scores._PART_ROWS, part_rows
    try:
        writer = PartWriter(str(out), 23)
        for start in range(0, 23, batch):
            writer.add([rows[number] for number in order[start : start + batch]])
    finally:
        image_scores._PART_ROWS = original
    files = sorted((out / "images").iterdir())
    assert [file.name for file in files] == [f"part-{number:05d}.parquet" for number in range(-(-23 // part_rows))]
    assert [row for file in files for row in pq.read_table(file).to_pylist()] == rows
