"""The plan of the stream, without Ray: which rows, in which order, on which worker."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlcsr.augment import Augmentation
from pipelines import dataset, images, stream
from pipelines.dataset import DataFile, Manifest, Row
from pipelines.stream import Group, Source, TrainStream


def make_source(num_rows, rows_per_file=256, rows_per_group=16):
    groups = []
    for file, start in enumerate(range(0, num_rows, rows_per_file)):
        in_file = min(rows_per_file, num_rows - start)
        groups += [
            Group(file, number, min(rows_per_group, in_file - number * rows_per_group))
            for number in range(-(-in_file // rows_per_group))
        ]
    return Source((), tuple(groups), "lapa", "digest")


def make_stream(source, rank=0, world_size=1, **changes):
    values = {"size": 64, "batch_size": 4, "seed": 0} | changes
    return TrainStream(source=source, augmentation=Augmentation(), rank=rank, world_size=world_size, **values)


def planned_rows(ts, epoch):
    """(file, group, row) of every row of a worker's epoch, chunk after chunk."""
    rows = []
    for chunk in range(ts.chunks_per_epoch):
        start, stop = ts.rows_of(chunk)
        for piece in stream.pieces_of(ts.source, ts.seed, epoch, start, stop):
            rows += [(piece.file, piece.group, row) for row in range(piece.start, piece.stop)]
    return rows


@given(st.integers(20, 900), st.integers(1, 4), st.integers(1, 9), st.integers(0, 3), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_row_goes_to_one_worker_but_for_incomplete_batches(num_rows, world_size, batch_size, epoch, seed):
    source = make_source(num_rows, rows_per_file=100)
    streams = [make_stream(source, rank, world_size, batch_size=batch_size, seed=seed) for rank in range(world_size)]
    plans = [planned_rows(ts, epoch) for ts in streams]
    everything = [row for plan in plans for row in plan]
    assert len(everything) == len(set(everything))
    assert {len(plan) for plan in plans} == {streams[0].num_batches * batch_size}
    assert num_rows - len(everything) < world_size * (batch_size + 1)


def test_epochs_have_whole_optimiser_steps():
    ts = make_stream(make_source(100), group_batches=3)
    assert ts.num_batches == 24


def test_order_follows_from_seed_and_epoch():
    ts = make_stream(make_source(300))
    assert planned_rows(ts, 3) == planned_rows(ts, 3)
    assert planned_rows(ts, 3) != planned_rows(ts, 4)
    assert planned_rows(ts, 3) != planned_rows(make_stream(make_source(300), seed=1), 3)


def test_pieces_without_seed_are_the_rows_in_order():
    pieces = stream.pieces_of(make_source(100), None, 0, 10, 40)
    assert pieces == [(0, 0, 10, 16), (0, 1, 0, 16), (0, 2, 0, 8)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """40 rows of 32x32 whose label is the row number."""
    out = str(tmp_path_factory.mktemp("tiny"))
    rows = []
    for number in range(40):
        image = np.full((32, 32, 3), number, np.uint8)
        label = np.full((32, 32), number % 11, np.uint8)
        rows.append(
            Row(
                id=f"row-{number}",
                image=cv2.imencode(".png", image)[1].tobytes(),
                label=cv2.imencode(".png", label)[1].tobytes() if number else None,
                height=32,
                width=32,
                meta=json.dumps({}),
            )
        )
    file = dataset.write_file(out, "train/part-00000.parquet", rows)
    manifest = Manifest(
        taxonomy="lapa",
        classes=dataset.get_taxonomy("lapa").classes,
        splits={"train": (file,)},
        digest=dataset.digest_of({"train": (file,)}),
    )
    return stream.open_split(out, manifest, "train")


def test_chunks_hold_the_planned_rows_shuffled(tiny):
    ts = make_stream(tiny, size=32)
    chunk = ts.rows_of_chunk(0, 0, ("id",))
    ids = [row["id"] for row in chunk]
    assert sorted(ids) == sorted(f"row-{number}" for number in range(40))
    assert ids != sorted(ids, key=lambda name: int(name[4:]))
    assert ids != [row["id"] for row in ts.rows_of_chunk(1, 0, ("id",))]


def test_a_decoded_chunk_is_uint8_and_the_same_every_time(tiny):
    ts = make_stream(tiny, size=32)
    one, two = ts.decode_chunk(2, 0), ts.decode_chunk(2, 0)
    assert one["image"].shape == (40, 32, 32, 3) and one["image"].dtype == np.uint8
    assert one["label"].shape == (40, 32, 32) and one["label"].dtype == np.uint8
    assert all((one[name] == two[name]).all() for name in one)


def test_an_unlabelled_row_is_all_ignore(tiny):
    label = images.decode_label(None)
    assert label.tolist() == [[255]]
    ts = make_stream(tiny, size=32)
    ids = [row["id"] for row in ts.rows_of_chunk(0, 0, ("id",))]
    assert (ts.decode_chunk(0, 0)["label"][ids.index("row-0")] == 255).all()


def test_damaged_bytes_are_an_error_that_says_so():
    with pytest.raises(ValueError, match="damaged"):
        images.decode_image(b"not an image")
    with pytest.raises(ValueError, match="cannot be decoded"):
        images.decode_image(b"")


def test_groups_follow_from_the_manifest():
    file = DataFile(path="train/part-00000.parquet", num_rows=35, num_bytes=1, sha256="x")
    manifest = Manifest(taxonomy="lapa", classes=(), splits={"train": (file,)}, digest="d")
    source = stream.open_split("/data", manifest, "train")
    assert [group.num_rows for group in source.groups] == [16, 16, 3]
    assert source.files == ("/data/train/part-00000.parquet",)
    assert stream.open_split("/data", manifest, "test").num_rows == 0
