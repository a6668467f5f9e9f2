"""Rows that cannot be used: what takes their place in a training, and what is known about them."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlcsr.augment import BORDER_COLOR, Augmentation
from dmlcsr.taxonomy import LAPA
from dmlcsr.weights import Preprocessing
from pipelines import storage
from pipelines.data import bad_rows, dataset, packing, row_groups
from pipelines.data.bad_rows import BadRowLimit
from pipelines.data.dataset import Row
from pipelines.data.images import encode_png
from pipelines.data.ordered import OrderedRows
from pipelines.data.packing import SampleProblem
from pipelines.data.stream import ChunkPart, TrainStream
from pipelines.errors import UserError
from pipelines.run.paths import RunPaths

NUM_ROWS, SIZE = 24, 32
CHUNK = ChunkPart(1, 0, NUM_ROWS)
DAMAGE = {
    "undecodable": {"image": b"no image"},
    "empty_file": {"image": b""},
    "image_without_label": {"label": None},
    "unknown_id": {"label": encode_png(np.full((SIZE, SIZE), 11, np.uint8))},
    "label_size": {"label": encode_png(np.zeros((SIZE, SIZE - 1), np.uint8))},
}


def make_rows():
    rng = np.random.default_rng(0)
    return [
        Row(
            id=f"row-{number}",
            image=encode_png(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)),
            label=encode_png(rng.integers(0, 11, (SIZE, SIZE), np.uint8)),
            height=SIZE,
            width=SIZE,
            meta="{}",
        )
        for number in range(NUM_ROWS)
    ]


def make_source(out, damage):
    """The training split of a data set in which the rows with these numbers have this damage."""
    rows = make_rows()
    for number, reason in damage.items():
        rows[number] |= DAMAGE[reason]
    file = dataset.write_file(str(out), "train/part-00000", rows, rows_per_group=5)
    manifest = packing.write_manifest(str(out), LAPA, {"train": [file]}, [], {}, rows_per_group=5)
    return row_groups.open_split(str(out), manifest, "train")


def make_stream(source, records=None):
    return TrainStream(
        source=source,
        augmentation=Augmentation(),
        size=SIZE,
        batch_size=4,
        seed=0,
        rank=0,
        world_size=1,
        records=records,
    )


def nearest(place, usable):
    """The usable place with the smallest distance, the earlier of two."""
    return next(other for far in range(1, NUM_ROWS) for other in (place - far, place + far) if other in usable)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    ts = make_stream(make_source(tmp_path_factory.mktemp("good"), {}))
    return [row["id"] for _, row in sorted(ts.rows(CHUNK, ("id",)), key=lambda found: found[0])], ts.decode(CHUNK)


@given(st.dictionaries(st.integers(0, NUM_ROWS - 1), st.sampled_from(sorted(DAMAGE)), max_size=NUM_ROWS - 1))
@settings(max_examples=40, deadline=None)
def test_a_bad_row_is_replaced_by_the_nearest_usable_one_and_no_other_row_changes(good, tmp_path_factory, damage):
    ids, expected = good
    out = tmp_path_factory.mktemp("damaged")
    chunk = make_stream(make_source(out, damage), str(out / "records")).decode(CHUNK)
    bad = {ids.index(f"row-{number}") for number in damage}
    usable = set(range(NUM_ROWS)) - bad
    places = [nearest(place, usable) if place in bad else place for place in range(NUM_ROWS)]
    assert all((chunk[name] == expected[name][places]).all() for name in ("image", "label"))
    known = [bad_rows.read_record(uri) for uri in bad_rows.list_records(str(out / "records"))]
    assert {problem["source"]: problem["reason"] for problem in known} == {
        f"row-{number}": reason for number, reason in damage.items()
    }
    assert len(known) == len(damage)


@given(
    st.dictionaries(st.integers(0, NUM_ROWS - 1), st.just("undecodable"), max_size=NUM_ROWS),
    st.integers(0, NUM_ROWS - 1),
    st.integers(1, NUM_ROWS),
)
@settings(max_examples=40, deadline=None)
def test_a_part_of_a_chunk_is_that_part_of_the_whole_chunk(tmp_path_factory, damage, start, length):
    ts = make_stream(make_source(tmp_path_factory.mktemp("parts"), damage))
    part = ChunkPart(1, start, min(NUM_ROWS, start + length))
    whole, found = ts.decode(CHUNK), ts.decode(part)
    assert all((found[name] == whole[name][part.start : part.stop]).all() for name in ("image", "label"))


def test_a_chunk_without_a_usable_row_is_empty_and_ignored(tmp_path):
    chunk = make_stream(make_source(tmp_path, dict.fromkeys(range(NUM_ROWS), "undecodable"))).decode(CHUNK)
    assert (chunk["image"] == BORDER_COLOR).all() and (chunk["label"] == 255).all()
    assert len(chunk["label"]) == NUM_ROWS


def test_a_row_is_recorded_once_whatever_the_epochs_and_ranks(tmp_path):
    ts = make_stream(make_source(tmp_path, {3: "undecodable", 9: "image_without_label"}), str(tmp_path / "records"))
    for epoch in range(3):
        ts.decode(CHUNK._replace(epoch=epoch))
    assert len(bad_rows.list_records(str(tmp_path / "records"))) == 2


def test_rows_in_order_have_a_reason_where_they_cannot_be_used(tmp_path):
    damage = dict(zip((0, 4, 5, 17, 23), sorted(DAMAGE), strict=True))
    source = make_source(tmp_path, damage)
    chunks = list(OrderedRows(source=source, preprocessing=Preprocessing(size=SIZE)).chunks())
    ids, reasons, details = (
        [value for chunk in chunks for value in chunk[name]] for name in ("id", "reason", "detail")
    )
    assert ids == [f"row-{number}" for number in range(NUM_ROWS)]
    assert reasons == [damage.get(number, "") for number in range(NUM_ROWS)]
    assert list(map(bool, details)) == list(map(bool, reasons))


def test_what_the_storage_does_not_give_is_no_bad_row(tmp_path):
    source = make_source(tmp_path, {})
    Path(source.files[0]).unlink()
    ts = make_stream(source, str(tmp_path / "records"))
    with pytest.raises(UserError, match="does not exist"):
        ts.decode(CHUNK)
    assert bad_rows.list_records(str(tmp_path / "records")) == []


def limit(run, max_fraction):
    return BadRowLimit(str(run), "/data/faces", "train", 40, max_fraction)


def test_more_bad_rows_than_the_fraction_are_an_error_that_names_one(tmp_path, caplog):
    folder = RunPaths(str(tmp_path)).bad_rows("train")
    limit(tmp_path, 0.0).check()
    bad_rows.write_records(folder, [SampleProblem(source="a", reason="undecodable", detail="damaged")] * 2)
    known = limit(tmp_path, 0.05)
    known.check()
    known.check()
    (line,) = caplog.messages
    assert line.startswith(
        "1 of the 40 train rows of /data/faces cannot be used and are left out; one of them: a: undec"
    )
    more = [SampleProblem(source=name, reason="undecodable", detail="damaged") for name in "bc"]
    bad_rows.write_records(folder, more)
    with pytest.raises(UserError, match=r"^3 of the 40 train rows .* more than --max-bad-fraction 0\.05; one of"):
        known.check()
    limit(tmp_path, 0.1).check()


def test_what_a_killed_write_left_is_no_record(tmp_path):
    bad_rows.write_records(str(tmp_path), [SampleProblem(source="a", reason="undecodable", detail="damaged")])
    (name,) = (path.name for path in tmp_path.iterdir())
    (tmp_path / f".{name}.0123").write_bytes(b"{")
    assert len(bad_rows.list_records(str(tmp_path))) == 1


@pytest.mark.parametrize("content", [{}, {"source": "a", "reason": 1, "detail": ""}, []])
def test_a_file_that_is_no_record_is_refused(tmp_path, content):
    storage.write_bytes(str(tmp_path / "x.json"), json.dumps(content).encode())
    with pytest.raises(UserError, match=r"x\.json"):
        bad_rows.read_record(str(tmp_path / "x.json"))
