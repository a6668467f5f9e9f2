"""The stream on the shared cluster: the same batches from any number of tasks, in any windows, from any storage."""

import shutil

import pytest
import torch

from dmlcsr.augment import Augmentation
from pipelines import storage
from pipelines.data import dataset, decode_tasks, row_groups
from pipelines.data.stream import TrainStream

SIZE, EPOCHS = 64, 2


def open_stream(uri, rank=0, world_size=1, batch_size=4):
    """With the smallest chunks, of 16 rows: three in an epoch of the 48 faces."""
    source = row_groups.open_split(uri, dataset.read_manifest(uri), "train")
    return TrainStream(
        source=source,
        augmentation=Augmentation(),
        size=SIZE,
        batch_size=batch_size,
        seed=3,
        rank=rank,
        world_size=world_size,
        chunk_bytes=1,
    )


def same(one, two):
    return len(one) == len(two) and all(
        torch.equal(torch.as_tensor(a[name]), torch.as_tensor(b[name]))
        for a, b in zip(one, two, strict=True)
        for name in ("image", "label")
    )


@pytest.fixture(scope="module")
def expected(faces):
    """The batches of two epochs, decoded here without Ray."""
    return list(open_stream(str(faces)).batches_here(0, EPOCHS))


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_the_batches_do_not_depend_on_the_number_of_tasks(faces, expected, num_tasks):
    assert same(list(open_stream(str(faces)).batches(0, EPOCHS, num_tasks)), expected)


def test_windows_and_restarts_at_an_epoch_change_nothing(faces, expected, monkeypatch):
    monkeypatch.setattr(decode_tasks, "MAX_TASKS", 2)
    ts = open_stream(str(faces))
    assert len(list(ts.parts(0, 48))) == 3
    assert same(list(ts.batches(0, EPOCHS, 2)), expected)
    assert same(list(ts.batches(1, EPOCHS, 2)), expected[ts.num_batches :])


def test_a_stream_of_two_workers_in_windows_is_that_of_its_plan(faces, monkeypatch):
    """Batches of 7 rows: chunks, windows and the rest that both workers share are cut within a chunk."""
    monkeypatch.setattr(decode_tasks, "MAX_TASKS", 1)
    for rank in range(2):
        ts = open_stream(str(faces), rank, 2, batch_size=7)
        assert ts.num_batches == 3
        assert same(list(ts.batches(0, EPOCHS, 2)), list(ts.batches_here(0, EPOCHS)))


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
        for part in ts.parts(0, 24)
        for _, row in ts.rows(part, ("id",))
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
