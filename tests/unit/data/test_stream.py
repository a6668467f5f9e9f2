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
from pipelines.data import dataset, decode_tasks, images, row_groups
from pipelines.data.dataset import DataFile, Manifest, Row
from pipelines.data.order import Groups
from pipelines.data.row_groups import Names
from pipelines.data.stream import ChunkPart, TrainStream
from tests.support.data_sets import split_files


def make_source(num_rows, rows_per_file=256, rows_per_group=16):
    counts = np.array([min(rows_per_file, num_rows - start) for start in range(0, num_rows, rows_per_file)])
    names = [f"part-{file}" for file in range(len(counts))]
    return split_files(names, counts, Groups(counts, rows_per_group), LAPA, "digest")


def make_stream(source, rank=0, world_size=1, **changes):
    values = {"size": 64, "batch_size": 4, "seed": 0} | changes
    return TrainStream(source=source, augmentation=Augmentation(), rank=rank, world_size=world_size, **values)


def planned_rows(ts, epoch):
    """The positions of every row of a worker's epoch, in order."""
    rows = ts.num_batches * ts.batch_size
    parts = list(ts.parts(epoch * rows, (epoch + 1) * rows))
    assert {part.epoch for part in parts} <= {epoch}
    return [position for part in parts for position in range(part.start, part.stop)]


@given(st.integers(20, 900), st.integers(1, 4), st.integers(1, 9), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_row_goes_to_one_worker_but_for_incomplete_batches(num_rows, world_size, batch_size, epoch):
    source = make_source(num_rows, rows_per_file=100, rows_per_group=7)
    streams = [make_stream(source, rank, world_size, batch_size=batch_size) for rank in range(world_size)]
    plans = [planned_rows(ts, epoch) for ts in streams]
    everything = [row for plan in plans for row in plan]
    assert len(everything) == len(set(everything)) and set(everything) <= set(range(num_rows))
    assert {len(plan) for plan in plans} == {streams[0].num_batches * batch_size}
    assert num_rows - len(everything) < world_size * (batch_size + 1)


def test_epochs_have_whole_optimiser_steps():
    ts = make_stream(make_source(100), batches_per_step=3)
    assert ts.num_batches == 24


def test_an_epoch_without_a_batch_has_no_rows():
    ts = make_stream(make_source(3))
    assert ts.num_batches == 0 and list(ts.batches_here(0, 5)) == [] and list(ts.batches(0, 5, 1)) == []


@pytest.mark.parametrize(("size", "rows_per_group", "rows"), [(64, 16, 64), (473, 16, 64), (473, 7, 63), (64, 100, 64)])
@pytest.mark.parametrize("batch_size", [7, 100])
def test_chunks_are_whole_row_groups_whatever_the_batch(size, rows_per_group, rows, batch_size):
    source = make_source(1000, rows_per_group=rows_per_group)
    assert make_stream(source, size=size, batch_size=batch_size).chunk_rows == rows


def test_what_tasks_receive_has_no_list_of_row_groups():
    source = make_source(10_000_000, rows_per_file=100_000)
    assert source.num_rows == 10_000_000
    assert len(pickle.dumps(source)) < 10_000


@given(st.integers(1, 70), st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_a_stream_is_cut_between_batches_even_inside_an_epoch(batch_size, max_tasks, num_epochs):
    windows = []

    class NoRows:
        def iter_torch_batches(self, **settings):
            return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_tasks, "MAX_TASKS", max_tasks)
        patch.setattr(TrainStream, "ray_dataset", lambda self, parts, tasks: windows.append(parts) or NoRows())
        ts = make_stream(make_source(640), batch_size=batch_size)
        assert list(ts.batches(1, 1 + num_epochs, 2)) == []
    lengths = [sum(part.stop - part.start for part in window) for window in windows]
    assert all(length % batch_size == 0 for length in lengths)
    assert max(map(len, windows)) <= 2 * max_tasks + 2 + batch_size // ts.chunk_rows
    rows = ts.num_batches * batch_size
    whole = [(part.epoch, place) for part in ts.parts(rows, rows * (1 + num_epochs)) for place in range(*part[1:])]
    assert [(part.epoch, place) for window in windows for part in window for place in range(*part[1:])] == whole


def test_names_are_a_sequence_of_strings():
    names = Names(["a", "bc", "d"])
    assert len(names) == 3 and names[1] == "bc" and names[-1] == "d" and list(names[1:]) == list(names)[1:]
    assert list(pickle.loads(pickle.dumps(names))) == ["a", "bc", "d"]


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


def ids_of(ts, part):
    return [row["id"] for _, row in sorted(ts.rows(part, ("id",)), key=lambda found: found[0])]


def test_chunks_hold_the_planned_rows_shuffled(tiny):
    ts = make_stream(tiny, size=32)
    ids = ids_of(ts, ChunkPart(0, 0, 40))
    assert sorted(ids) == sorted(f"row-{number}" for number in range(40))
    assert ids != sorted(ids, key=lambda name: int(name[4:]))
    assert ids != ids_of(ts, ChunkPart(1, 0, 40))
    assert ids_of(ts, ChunkPart(0, 13, 29)) == ids[13:29]


def test_a_decoded_chunk_is_uint8_and_the_same_every_time(tiny):
    ts = make_stream(tiny, size=32)
    one, two = (ts.decode(ChunkPart(2, 0, 40)) for _ in range(2))
    assert one["image"].shape == (40, 32, 32, 3) and one["image"].dtype == np.uint8
    assert one["label"].shape == (40, 32, 32) and one["label"].dtype == np.uint8
    assert all((one[name] == two[name]).all() for name in one)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 39])
def test_batches_are_cut_across_chunks(tiny, batch_size):
    ts = make_stream(tiny, size=32, batch_size=batch_size, chunk_bytes=1)
    assert ts.chunk_rows == 16
    batches = list(ts.batches_here(0, 2))
    assert len(batches) == 2 * ts.num_batches == 2 * (40 // batch_size)
    assert {len(batch["label"]) for batch in batches} == {batch_size}
    chunks = [ts.decode(part) for part in ts.parts(0, 2 * ts.num_batches * batch_size)]
    for name in ("image", "label"):
        joined = np.concatenate([batch[name] for batch in batches])
        assert (joined == np.concatenate([chunk[name] for chunk in chunks])).all()


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
    assert [source.groups.whole(number) for number in source.groups.of_file(0)] == [
        (0, 0, 0, 16),
        (0, 1, 0, 16),
        (0, 2, 0, 3),
    ]
    assert list(source.files) == ["/data/train/part-00000.parquet"] and source.file_bytes.tolist() == [1]
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
