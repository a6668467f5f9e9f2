"""What release 0.1 wrote is read by the present release: data sets, models, finished runs and sweeps."""

import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

import ray_job
from dmlcsr import load_model, parse
from pipelines import storage
from pipelines.config.base import SPLITS
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.data import dataset, images, row_groups
from pipelines.errors import OutputTakenError, UserError
from pipelines.models import checkpoint, model_directory, setup
from pipelines.regulation.ledger import Ensemble, Ledger
from pipelines.relabeling import suspects
from pipelines.run import claims, run_directory
from tests.support.commands import DATA

PLACE = "/srv/release-0.1"
"""Where the files of 0.1 say that they lie."""


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The folder with what 0.1 wrote, whose files name each other by their present places."""
    folder = tmp_path_factory.mktemp("release")
    for archive in (DATA / "release-0.1").glob("*.tar.xz"):
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".yaml"):
            path.write_text(path.read_text().replace(PLACE, str(folder)))
    shutil.copytree(folder / "data", folder / "procedural")
    manifest = folder / "data" / "dataset.json"  # as one that was ingested: procedural ones of 0.1 are refused
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"lineage": {"command": "ingest", "format": "pairs"}}))
    return folder


def run(capsys, *arguments):
    """The result of a command, or its error sentence."""
    code = ray_job.main([*map(str, arguments), "--json"])
    shown = capsys.readouterr()
    return json.loads(shown.out.splitlines()[-1]) if code == 0 else shown.err


def test_the_files_are_small(release):
    assert sum(path.stat().st_size for path in (DATA / "release-0.1").iterdir()) < 1_000_000


@pytest.mark.parametrize("name", ["data", "relabelled"])
def test_every_row_of_a_data_set_is_read(release, name):
    uri = str(release / name)
    manifest = dataset.read_manifest(uri)
    assert manifest.num_rows() == {"train": 20, "val": 2, "test": 2} and manifest.taxonomy.num_classes == 19
    for split in SPLITS:
        files = row_groups.open_split(uri, manifest, split)
        rows = row_groups.read_rows(files, files.groups.locate(0, files.num_rows), dataset.SCHEMA.names)
        assert len(rows) == manifest.num_rows()[split]
        for row in rows:
            assert images.decode_image(row["image"]).shape == (32, 32, 3)
            assert images.decode_label(row["label"]).max() < 19


def test_a_data_set_with_left_and_right_the_wrong_way_round_is_refused_in_one_sentence(release, tmp_path):
    with pytest.raises(UserError, match=r"procedural faces of release 0\.1.*make them again with `synth`"):
        dataset.read_manifest(str(release / "procedural"))
    folder = shutil.copytree(release / "data", tmp_path / "remapped")
    content = json.loads((folder / "dataset.json").read_text())
    content["lineage"] |= {"taxonomy": "celebamask_hq", "remap_to": "lapa"}
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="took left for right; ingest the source again"):
        dataset.read_manifest(str(folder))
    child = shutil.copytree(release / "relabelled", tmp_path / "relabelled")
    content = json.loads((child / "dataset.json").read_text())
    content["lineage"]["data"] = str(folder)
    (child / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="took left for right"):
        dataset.read_manifest(str(child))


def test_a_relabelled_version_says_how_good_its_labels_were(release, capsys):
    uri = str(release / "relabelled")
    made = dataset.read_manifest(uri).relabelled
    assert made["num_changed_rows"] == 20 and 0 < made["mean_quality"] < 1
    assert len(suspects.worst(uri)) == 20
    page = release / "relabelled.html"
    assert run(capsys, "report", "--run", uri, "--out", page) == {"out": str(page)}
    assert "What changed" in page.read_text()


def test_the_labels_before_that_a_relabelled_version_holds_are_exported(release, tmp_path):
    uri = str(shutil.copytree(release / "relabelled", tmp_path / "relabelled"))
    suspects.write(uri, 3, dataset.read_manifest(uri))
    tasks = storage.read_bytes(f"{uri}/suspects/label_studio-00000.json")
    versions = [prediction["model_version"] for task in json.loads(tasks) for prediction in task["predictions"]]
    assert versions == ["label after", "label before"] * 3


def test_a_model_labels_an_image_as_it_did(release):
    image = images.decode_image(next(rows(release))["image"])
    for folder in ("model", "run", "sweep"):
        label = parse(load_model(release / folder), image)
        assert label.shape == (32, 32) and label.max() < 19
    parser, card = model_directory.read_model(str(release / "model"))
    assert (card.architecture.depth, card.architecture.width, card.preprocessing.size) == (18, 0.01, 32)
    assert card.metrics["val_mean_f1"] == storage.read_json(f"{release}/run/result.json")["result"]["val_mean_f1"]
    assert parser(torch.zeros(1, 3, 32, 32)).shape[1] == 19


def rows(release):
    uri = str(release / "data")
    files = row_groups.open_split(uri, dataset.read_manifest(uri), "test")
    yield from row_groups.read_rows(files, files.groups.locate(0, 1), dataset.SCHEMA.names)


def test_a_run_is_shown_with_its_cycles(release, capsys):
    state = run(capsys, "status", "--run", release / "run")
    assert (state["state"], state["epochs"], state["num_epochs"]) == ("finished", 2, 2)
    assert set(state["trials"]["train"]["ensembles"]) == {"0", "1"}
    config = run_directory.read_config(str(release / "run"))
    assert isinstance(config, TrainConfig) and config.csr.num_cycles == 1 and config.loss.binary_edge == 1.0
    ledger = Ledger(str(release / "run"))
    assert [record.cycle for record in ledger.of(Ensemble, "train")] == [0, 1]
    page = release / "run.html"
    assert run(capsys, "report", "--run", release / "run", "--out", page) == {"out": str(page)}
    assert "Student against ensemble" in page.read_text()


def test_a_sweep_is_shown_with_its_trials(release, capsys):
    state = run(capsys, "status", "--run", release / "sweep")
    assert state["state"] == "finished" and [trial["state"] for trial in state["trials"].values()] == ["finished"] * 2
    config = run_directory.read_config(str(release / "sweep"))
    assert isinstance(config, TuneConfig) and config.search.binary_edge == (0.3, 3.0)
    page = release / "sweep.html"
    assert run(capsys, "report", "--run", release / "sweep", "--out", page) == {"out": str(page)}
    assert "Weights against score" in page.read_text()


def test_a_checkpoint_is_what_a_new_run_may_start_from(release):
    with setup.last_checkpoint(str(release / "run")).as_directory() as folder:
        weights = checkpoint.load_network(Path(folder))
    assert weights.keys() >= model_directory.read_model(str(release / "run"))[0].state_dict().keys()


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_the_same_command_on_a_finished_run_does_nothing(release, capsys, command):
    out = release / command
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "result.json"}
    name = "train" if command == "run" else "tune"
    more = ["--num-trials", 2] if name == "tune" else ["--csr.num-cycles", 1, "--csr.cycle-epochs", 1]
    result = run(capsys, name, "--data", release / "data", "--out", out, "--optimizer.batch-size", 4, *more)
    assert result == storage.read_json(f"{out}/result.json")["result"]
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("name", "command"),
    [("unfinished", ("train", "--data", "data")), ("data", ("synth",)), ("relabelled", ("synth",))],
)
def test_what_cannot_be_continued_is_refused_in_one_sentence_that_names_the_versions(release, capsys, name, command):
    out = release / name
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    words = [release / word if word == "data" else word for word in command]
    error = run(capsys, *words, "--out", out)
    assert re.fullmatch(rf"error: {re.escape(str(out))} [^\n]*release 0\.1[^\n]*choose another --out\n", error), error
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_an_unfinished_build_of_a_data_set_is_refused(release, tmp_path):
    shutil.copytree(release / "data" / "train", tmp_path / "train")
    (tmp_path / "unfinished.json").write_text('{"command": "synth"}')
    with pytest.raises(OutputTakenError, match=r"release 0\.1 \(format version 1\).*format version 2"):
        claims.read_claim(str(tmp_path))
