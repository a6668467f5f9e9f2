"""Copies of versions on the shared cluster, with a base that has moved."""

import shutil
from pathlib import Path

import pytest

from pipelines import storage
from pipelines.config.base import SPLITS
from pipelines.config.commands import CopyConfig, RelabelConfig
from pipelines.data import copy, dataset, packing
from pipelines.errors import OutputTakenError, UserError
from pipelines.relabeling import relabel
from tests.support.data_sets import rows_of


@pytest.fixture(scope="module")
def moved(mixed, replaced, model, tmp_path_factory):
    """A version of the version `replaced`, made after the images had moved: (its configuration, where they are now)."""
    folder = tmp_path_factory.mktemp("moved")
    present = str(shutil.copytree(mixed, folder / "present"))
    version = shutil.copytree(replaced[0].out, folder / "version")
    manifest = storage.read_json(f"{version}/dataset.json")
    manifest["bases"][0]["uri"] = f"{folder}/before"
    storage.write_json(f"{version}/dataset.json", manifest)
    config = RelabelConfig(model=model, data=str(version), out=f"{folder}/out", splits=("val",), base=(present,))
    relabel.run(config)
    return config, present


def test_a_version_of_a_version_whose_base_has_moved_has_all_rows(moved, mixed, replaced):
    config, present = moved
    manifest = dataset.read_manifest(config.out)
    assert {base.uri for base in manifest.bases} == {config.data, present}
    assert rows_of(config.out) == rows_of(replaced[0].out), "the training rows are those of the version before"
    before, after = rows_of(mixed, "val"), rows_of(config.out, "val")
    assert [(row["id"], row["image"]) for row in after] == [(row["id"], row["image"]) for row in before]
    assert not list(Path(config.out).glob("train/*")) and len(list(Path(config.out).glob("val/*"))) == 1


def test_where_a_base_is_belongs_to_no_output(moved, tmp_path):
    config, present = moved
    elsewhere = str(shutil.copytree(present, tmp_path / "elsewhere"))
    assert relabel.run(config.model_copy(update={"base": (elsewhere,), "suspects": 1}))["num_quarantined"] == 0
    with pytest.raises(UserError, match=r"version refers to files of \S+/before, where no data set is"):
        relabel.run(config.model_copy(update={"base": None}))


def test_a_copy_has_the_same_rows_and_stands_alone(moved, tmp_path):
    data = str(shutil.copytree(moved[0].out, tmp_path / "data"))
    config = CopyConfig(data=data, out=str(tmp_path / "copy"), base=(moved[1],))
    result = copy.run(config)
    assert result["num_rows"] == dataset.read_manifest(data).num_rows() == {"train": 118, "val": 5, "test": 0}
    for split in SPLITS:
        assert rows_of(config.out, split) == rows_of(data, split)
    manifest = dataset.read_manifest(config.out)
    assert manifest.bases == () and manifest.origins == dataset.read_manifest(data).origins
    assert packing.read_problems(config.out, packing.QUARANTINE) == packing.read_problems(data, packing.QUARANTINE)
    assert copy.run(config) == result, "a finished copy is not made again"
    with pytest.raises(OutputTakenError, match="was begun with data = "):
        copy.run(config.model_copy(update={"data": moved[0].data}))


def test_an_interrupted_copy_goes_on(moved, tmp_path):
    data, present = (str(shutil.copytree(uri, tmp_path / name)) for uri, name in zip(
        (moved[0].out, moved[1]), ("data", "present"), strict=True
    ))  # fmt: skip
    path = Path(present, dataset.read_manifest(data).splits["train"][-1].images.path)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    config = CopyConfig(data=data, out=str(tmp_path / "copy"), base=(present,))
    with pytest.raises(UserError, match=rf"cannot read {path}"):
        copy.run(config)
    assert not storage.exists(f"{config.out}/dataset.json")
    path.write_bytes(content)
    assert copy.run(config)["num_rows"]["train"] == 118
    assert rows_of(config.out) == rows_of(data)
