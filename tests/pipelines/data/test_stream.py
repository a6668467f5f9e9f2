"""The stream on the shared cluster: the same batches from any number of tasks, in any windows, from any storage."""

import shutil

import numpy as np
import pytest
import torch

from dmlcsr.augment import Augmentation
from pipelines import storage
from pipelines.data import dataset, row_groups, stream
from pipelines.data.stream import TrainStream

SIZE, EPOCHS = 64, 2


def open_stream(uri, rank=0, world_size=1):
    """With the smallest chunks, of 16 rows: three in an epoch of the 48 faces."""
    source = row_groups.open_split(uri, dataset.read_manifest(uri), "train")
    return TrainStream(
        source=source,
        augmentation=Augmentation(),
        size=SIZE,
        batch_size=4,
        seed=3,
        rank=rank,
        world_size=world_size,
        chunk_bytes=1,
    )


def same(one, two):
    return len(one) == len(two) and all(
        torch.equal(a[name], b[name]) for a, b in zip(one, two, strict=True) for name in ("image", "label")
    )


@pytest.fixture(scope="module")
def expected(faces):
    """The batches of two epochs, decoded here without Ray."""
    ts = open_stream(str(faces))
    chunks = [ts.decode_chunk(epoch, chunk) for epoch in range(EPOCHS) for chunk in range(ts.chunks_per_epoch)]
    columns = {name: torch.from_numpy(np.concatenate([chunk[name] for chunk in chunks])) for name in chunks[0]}
    split = {name: column.split(4) for name, column in columns.items()}
    return [{name: split[name][index] for name in split} for index in range(EPOCHS * ts.num_batches)]


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_the_batches_do_not_depend_on_the_number_of_tasks(faces, expected, num_tasks):
    assert same(list(open_stream(str(faces)).batches(0, EPOCHS, num_tasks)), expected)


def test_windows_and_restarts_at_an_epoch_change_nothing(faces, expected, monkeypatch):
    monkeypatch.setattr(stream, "MAX_CHUNKS", 2)
    ts = open_stream(str(faces))
    assert ts.chunks_per_epoch == 3
    assert same(list(ts.batches(0, EPOCHS, 2)), expected)
    assert same(list(ts.batches(1, EPOCHS, 2)), expected[ts.num_batches :])


def test_s3_gives_what_the_local_copy_gives(faces, expected, s3):
    uri = f"{s3}/stream"
    for path in sorted(faces.rglob("*")):
        if path.is_file():
            storage.write_bytes(storage.join(uri, path.relative_to(faces).as_posix()), path.read_bytes())
    assert same(list(open_stream(uri).batches(0, EPOCHS, 2)), expected)


def test_two_workers_share_an_epoch_without_a_row_in_common(faces):
    rows = [
        row["id"]
        for rank in range(2)
        for ts in [open_stream(str(faces), rank, 2)]
        for chunk in range(ts.chunks_per_epoch)
        for row in ts.read_chunk(0, chunk, ("id",))
    ]
    assert len(rows) == len(set(rows)) == 48


def test_a_lost_file_is_told_by_its_name(faces, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(faces, copy)
    ts = open_stream(str(copy))
    lost = next((copy / "train").iterdir())
    lost.unlink()
    with pytest.raises(Exception, match=str(lost)):
        list(ts.batches(0, 1, 1))
