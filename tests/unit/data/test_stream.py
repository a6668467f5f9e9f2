"""The plan of the stream, without Ray: which rows, in which order, on which worker."""

import json
import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlcsr.augment import Augmentation, Pose, decode_factor, warp_image
from dmlcsr.synthetic import render_face
from dmlcsr.taxonomy import LAPA
from pipelines.data import dataset, images, row_groups, stream
from pipelines.data.dataset import DataFile, Manifest, Row
from pipelines.data.row_groups import SplitFiles
from pipelines.data.stream import TrainStream


def make_source(num_rows, rows_per_file=256, rows_per_group=16):
    counts = tuple(min(rows_per_file, num_rows - start) for start in range(0, num_rows, rows_per_file))
    return SplitFiles(
        tuple(f"part-{file}" for file in range(len(counts))), counts, rows_per_group, "lapa", "digest", ()
    )


def make_stream(source, rank=0, world_size=1, **changes):
    values = {"size": 64, "batch_size": 4, "seed": 0} | changes
    return TrainStream(source=source, augmentation=Augmentation(), rank=rank, world_size=world_size, **values)


def planned_rows(ts, epoch):
    """(file, group, row) of every row of a worker's epoch, chunk after chunk."""
    rows = []
    for chunk in range(ts.chunks_per_epoch):
        start, stop = ts.chunk_bounds(chunk)
        for piece in row_groups.locate_rows(ts.source, ts.seed, epoch, start, stop):
            rows += [(piece.file, piece.group, row) for row in range(piece.start, piece.stop)]
    return rows


@given(st.integers(20, 900), st.integers(1, 4), st.integers(1, 9), st.integers(0, 3), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_row_goes_to_one_worker_but_for_incomplete_batches(num_rows, world_size, batch_size, epoch, seed):
    source = make_source(num_rows, rows_per_file=100, rows_per_group=7)
    streams = [make_stream(source, rank, world_size, batch_size=batch_size, seed=seed) for rank in range(world_size)]
    plans = [planned_rows(ts, epoch) for ts in streams]
    everything = [row for plan in plans for row in plan]
    assert len(everything) == len(set(everything))
    assert {len(plan) for plan in plans} == {streams[0].num_batches * batch_size}
    assert num_rows - len(everything) < world_size * (batch_size + 1)


def test_epochs_have_whole_optimiser_steps():
    ts = make_stream(make_source(100), batches_per_step=3)
    assert ts.num_batches == 24


def test_order_follows_from_seed_and_epoch():
    ts = make_stream(make_source(300))
    assert planned_rows(ts, 3) == planned_rows(ts, 3)
    assert planned_rows(ts, 3) != planned_rows(ts, 4)
    assert planned_rows(ts, 3) != planned_rows(make_stream(make_source(300), seed=1), 3)


@given(st.integers(1, 900), st.integers(1, 4), st.integers(1, 99), st.integers(32, 473), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_every_chunk_is_a_whole_number_of_batches(num_rows, world_size, batch_size, size, batches_per_step):
    rank = world_size - 1
    ts = make_stream(
        make_source(num_rows), rank, world_size, size=size, batch_size=batch_size, batches_per_step=batches_per_step
    )
    bounds = [ts.chunk_bounds(chunk) for chunk in range(ts.chunks_per_epoch)]
    assert all(stop > start and (stop - start) % batch_size == 0 for start, stop in bounds)
    assert [start for start, _ in bounds[1:]] == [stop for _, stop in bounds[:-1]]
    assert sum(stop - start for start, stop in bounds) == ts.num_batches * batch_size


@pytest.mark.parametrize(("size", "batch_size", "rows"), [(64, 8, 64), (473, 8, 64), (473, 28, 56), (473, 100, 100)])
def test_chunks_are_large_against_the_cost_of_a_task(size, batch_size, rows):
    assert make_stream(make_source(1000), size=size, batch_size=batch_size).chunk_bounds(0) == (0, rows)


def test_planning_costs_nothing_for_each_row_group():
    source = make_source(10_000_000, rows_per_file=100_000)
    assert len(pickle.dumps(source)) < 5000
    assert len(row_groups.locate_rows(source, 0, 0, 5_000_000, 5_000_064)) in (4, 5)


def test_a_stream_is_cut_into_windows_even_inside_an_epoch(monkeypatch):
    windows = []

    class NoRows:
        def iter_torch_batches(self, **settings):
            return []

    monkeypatch.setattr(stream, "MAX_CHUNKS", 4)
    monkeypatch.setattr(TrainStream, "ray_dataset", lambda self, *window: windows.append(window[:2]) or NoRows())
    ts = make_stream(make_source(640))
    assert ts.chunks_per_epoch == 10
    assert list(ts.batches(1, 2, 2)) == []
    assert windows == [(10, 14), (14, 18), (18, 20)]


def test_pieces_without_seed_are_the_rows_in_order():
    pieces = row_groups.locate_rows(make_source(100), None, 0, 10, 40)
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
    file = dataset.write_file(out, "train/part-00000", rows)
    manifest = Manifest(
        label_taxonomy=LAPA,
        splits={"train": (file,)},
        digest=dataset.digest_of({"train": (file,)}),
    )
    return row_groups.open_split(out, manifest, "train")


def test_chunks_hold_the_planned_rows_shuffled(tiny):
    ts = make_stream(tiny, size=32)
    chunk = ts.read_chunk(0, 0, ("id",))
    ids = [row["id"] for row in chunk]
    assert sorted(ids) == sorted(f"row-{number}" for number in range(40))
    assert ids != sorted(ids, key=lambda name: int(name[4:]))
    assert ids != [row["id"] for row in ts.read_chunk(1, 0, ("id",))]


def test_a_decoded_chunk_is_uint8_and_the_same_every_time(tiny):
    ts = make_stream(tiny, size=32)
    one, two = ts.decode_chunk(2, 0), ts.decode_chunk(2, 0)
    assert one["image"].shape == (40, 32, 32, 3) and one["image"].dtype == np.uint8
    assert one["label"].shape == (40, 32, 32) and one["label"].dtype == np.uint8
    assert all((one[name] == two[name]).all() for name in one)


def test_no_label_is_one_ignored_pixel():
    assert images.decode_label(None).tolist() == [[255]]


def test_damaged_bytes_are_an_error_that_says_so():
    with pytest.raises(ValueError, match="damaged"):
        images.decode_image(b"not an image")
    with pytest.raises(ValueError, match="no content"):
        images.decode_image(b"")


def test_groups_follow_from_the_manifest():
    file = DataFile(path="train/part-00000.parquet", num_rows=35, num_bytes=1, sha256="x")
    manifest = Manifest(label_taxonomy=LAPA, splits={"train": (file,)}, digest="d")
    source = row_groups.open_split("/data", manifest, "train")
    groups = row_groups.list_groups(source)
    assert groups.file.tolist() == [0, 0, 0] and groups.group.tolist() == [0, 1, 2]
    assert groups.num_rows.tolist() == [16, 16, 3]
    assert source.files == ("/data/train/part-00000.parquet",)
    assert row_groups.open_split("/data", manifest, "test").num_rows == 0


def jpeg(image, *params):
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), params)[1].tobytes()


def turned(data, orientation):
    """JPEG bytes with an EXIF tag that says how to turn the image."""
    tag = b"\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([orientation, 0, 0, 0])
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00" + tag + b"\x00\x00\x00\x00"
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + data[2:]


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_jpeg_is_decoded_smaller_with_its_colours_and_the_right_way_up(factor, orientation):
    image = np.zeros((64, 96, 3), np.uint8)
    image[:32, :48], image[32:, 48:] = (200, 30, 30), (30, 30, 200)
    data = turned(jpeg(image), orientation)
    full, reduced = images.decode_image(data), images.decode_image(data, factor)
    assert full.shape[:2] == ((96, 64) if orientation == 6 else (64, 96))
    assert reduced.shape[:2] == (full.shape[0] // factor, full.shape[1] // factor)
    averaged = cv2.resize(full, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(averaged.astype(int) - reduced).mean() < 3


def test_what_is_no_jpeg_is_decoded_whole():
    data = images.encode_png(np.zeros((64, 64, 3), np.uint8))
    assert images.decode_image(data, 2).shape == (64, 64, 3)


@pytest.mark.parametrize("shape", [(33, 20), (16, 16, 3)])
def test_a_png_gives_back_what_was_encoded(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    decode = images.decode_label if len(shape) == 2 else images.decode_image
    assert (decode(images.encode_png(pixels)) == pixels).all()


# 4:2:0, 4:2:2 and 4:4:4, as IMWRITE_JPEG_SAMPLING_FACTOR takes them.
@pytest.mark.parametrize("sampling", [0x221111, 0x211111, 0x111111])
@pytest.mark.parametrize("quality", [75, 90])
def test_a_reduced_decode_is_the_whole_one_to_a_grey_level(quality, sampling):
    """The limits of the design: 1 grey level RMS in luma, 3.5 in RGB."""
    face = render_face(0, 1, 512).image
    noisy = np.clip(face + np.random.default_rng(0).normal(0, 5, face.shape), 0, 255).astype(np.uint8)
    params = (cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
    data = jpeg(noisy, *params)
    factors = set()
    for size, pose in [
        (236, Pose()),
        (236, Pose(1.2, 25, True)),
        (118, Pose(1.1, -40)),
        (60, Pose()),
        (61, Pose(0.75)),
    ]:
        factor = decode_factor(512, 512, size, pose)
        factors.add(factor)
        reduced, full = (warp_image(images.decode_image(data, part), size, pose) for part in (factor, 1))
        difference = reduced.astype(float) - full
        luma = difference @ (0.299, 0.587, 0.114)
        assert np.sqrt((luma**2).mean()) <= 1.0 and np.sqrt((difference**2).mean()) <= 3.5
    assert factors == {2, 4, 8}
