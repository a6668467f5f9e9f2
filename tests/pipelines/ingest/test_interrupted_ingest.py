"""An `ingest` that was cut off, and the next attempt at it."""

import shutil
from contextlib import contextmanager

import pytest

from pipelines import storage
from pipelines.data import dataset, packing
from pipelines.ingest import ingest, names, tables
from tests.support.data_sets import pairs

LEFT = ["claim.json", "dataset.json", "result.json", "test", "train", "val"]


def test_an_interrupted_build_does_no_finished_file_again(raw, tmp_path, monkeypatch):
    config = pairs(raw, tmp_path / "out")
    undisturbed = ingest.run(pairs(raw, tmp_path / "whole"))
    monkeypatch.setattr(dataset, "finish_build", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ingest.run(config)
    monkeypatch.undo()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.parquet")}
    lost = next(path for path in files if "val" in str(path))
    lost.unlink()
    (tmp_path / "out/receipts/val/part-00000.json").unlink()
    assert ingest.run(config)["num_rows"] == undisturbed["num_rows"]
    again = {path for path, time in files.items() if path.stat().st_mtime_ns != time}
    assert again == {lost}
    manifests = [dataset.read_manifest(str(tmp_path / name)) for name in ("out", "whole")]
    assert manifests[0].digest == manifests[1].digest
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == LEFT


def test_what_a_kill_after_the_manifest_leaves_is_tidied_by_the_next_attempt(raw, tmp_path, monkeypatch):
    config = pairs(raw, tmp_path / "out")
    monkeypatch.setattr(storage, "delete_folder", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ingest.run(config)
    monkeypatch.undo()
    assert (tmp_path / "out/receipts").exists() and (tmp_path / "out/dataset.json").exists()
    assert ingest.run(config)["num_rows"]["train"] == 16
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == LEFT


def test_a_source_that_changed_since_is_read_again_where_it_changed(raw, tmp_path, monkeypatch):
    source = tmp_path / "source"
    shutil.copytree(raw, source)
    monkeypatch.setattr(dataset, "finish_build", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ingest.run(pairs(source, tmp_path / "out"))
    monkeypatch.undo()
    next((source / "test/images").iterdir()).rename(source / "test/images/gone.txt")
    result = ingest.run(pairs(source, tmp_path / "out"))
    assert result["num_rows"] == {"train": 16, "val": 2, "test": 1}
    assert result["reasons"] == {"label_without_image": 1}


@pytest.fixture
def small_buckets(monkeypatch):
    """Several runs of names, and buckets that tasks join."""
    monkeypatch.setattr(names, "RUN_NAMES", 16)
    monkeypatch.setattr(names, "BUCKET_NAMES", 12)


def test_buckets_that_tasks_join_give_the_same_bytes(raw, tmp_path, small_buckets, monkeypatch):
    found = ingest.run(pairs(raw, tmp_path / "out"))
    monkeypatch.undo()
    assert ingest.run(pairs(raw, tmp_path / "whole")) == found | {"out": f"{tmp_path}/whole"}
    manifests = [dataset.read_manifest(str(tmp_path / name)) for name in ("out", "whole")]
    assert manifests[0].digest == manifests[1].digest
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == LEFT


def test_a_listing_that_was_killed_leaves_the_output_free_and_is_done_again(raw, tmp_path, small_buckets, monkeypatch):
    @contextmanager
    def kept(out):
        yield f"{out}/{tables.FOLDER}/killed"

    def killed(join, buckets):
        join(buckets[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "working_folder", kept)
    monkeypatch.setattr(ingest, "in_tasks", killed)
    with pytest.raises(KeyboardInterrupt):
        ingest.run(pairs(raw, tmp_path / "out"))
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [tables.FOLDER]
    assert list((tmp_path / "out").glob(f"{tables.FOLDER}/killed/samples-*.parquet"))
    other = tmp_path / "other"
    shutil.copytree(raw, other)
    assert ingest.run(pairs(other, tmp_path / "out"))["num_rows"] == {"train": 16, "val": 2, "test": 2}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == LEFT


def test_many_problems_are_in_parts_that_do_not_depend_on_an_interruption(raw, tmp_path, monkeypatch):
    source = tmp_path / "source"
    shutil.copytree(raw, source)
    bad = sorted(source.glob("train/images/*.jpg"))[:7]
    for image in bad:
        image.write_bytes(b"no image")
    for number in range(6):
        (source / f"train/labels/lost-{number}.png").touch()
    monkeypatch.setattr(packing, "PROBLEMS_PER_PART", 5)
    monkeypatch.setattr(dataset, "finish_build", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ingest.run(pairs(source, tmp_path / "out"))
    (tmp_path / "out/quarantine/part-00007.parquet").write_bytes(b"of an earlier listing")
    monkeypatch.undo()
    monkeypatch.setattr(packing, "PROBLEMS_PER_PART", 5)
    result = ingest.run(pairs(source, tmp_path / "out"))
    assert result["reasons"] == {"label_without_image": 6, "undecodable": 7} and result["num_quarantined"] == 13
    parts = sorted((tmp_path / "out/quarantine").iterdir())
    assert [path.name for path in parts] == [f"part-{number:05d}.parquet" for number in range(3)]
    ingest.run(pairs(source, tmp_path / "whole"))
    assert [path.read_bytes() for path in sorted((tmp_path / "whole/quarantine").iterdir())] == [
        path.read_bytes() for path in parts
    ]
    found = packing.read_problems(str(tmp_path / "out"), packing.QUARANTINE)
    assert {problem["source"] for problem in found} >= {str(image) for image in bad} and len(found) == 13
