"""An `ingest` that was cut off, and the next attempt at it."""

import shutil

import pytest

from pipelines import storage
from pipelines.data import dataset
from pipelines.ingest import ingest
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
