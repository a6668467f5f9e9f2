"""Trainings and evaluations on a data set with rows that cannot be used."""

import shutil

import pytest
import yaml

import ray_job
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines.config.commands import EvaluateConfig
from pipelines.data import bad_rows, dataset, packing
from pipelines.inference import evaluate
from pipelines.models import setup
from pipelines.run import phases, result_file
from pipelines.run.paths import RunPaths
from pipelines.run.states import State
from pipelines.tuning import trials
from tests.support.data_sets import rows_of
from tests.support.training import history, smoke, sweep

ONE_EPOCH = {"schedule": {"epochs": 1, "warmup_epochs": 0.5}}
TWO_WORKERS = {"workers": {"num_workers": 2}, "optimizer": {"batch_size": 2}}


@pytest.fixture(scope="module")
def damaged_rows(faces, tmp_path_factory):
    """The 48 training rows and 6 validation rows of `faces`, of which two and one cannot be used."""
    out = str(tmp_path_factory.mktemp("damaged") / "data")
    rows = {split: rows_of(faces, split) for split in ("train", "val")}
    rows["train"][5]["image"] = b"no image"
    rows["train"][40]["label"] = None
    rows["val"][2]["label"] = rows["val"][2]["label"][:40]
    files = {split: [dataset.write_file(out, f"{split}/part-00000", rows[split])] for split in rows}
    packing.write_manifest(out, CELEBAMASK_HQ, files, [], {"command": "test"})
    return out, {split: [row["id"] for row in rows[split]] for split in rows}


def train(config, tmp_path, *arguments):
    """Runs the command and returns its exit code."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return ray_job.main(["train", "--config", str(tmp_path / "run.yaml"), *arguments])


def num_starts_of_workers(out):
    return [phase.kind for phase in phases.read(out)].count("waiting for workers")


def recorded(out, split):
    records = bad_rows.list_records(RunPaths(out).bad_rows(split))
    return {record["source"]: record["reason"] for record in map(bad_rows.read_record, records)}


def test_a_training_leaves_bad_rows_out_lists_them_and_keeps_all_batches(ray_cluster, damaged_rows, tmp_path):
    data, ids = damaged_rows
    config = smoke(data, tmp_path / "run", max_bad_fraction=0.2, **ONE_EPOCH, **TWO_WORKERS)
    assert train(config, tmp_path) == 0
    assert len(history(config.out)) == 1
    assert recorded(config.out, "train") == {
        ids["train"][5]: "undecodable",
        ids["train"][40]: "image_without_label",
    }
    assert recorded(config.out, "val") == {ids["val"][2]: "undecodable"}
    manifest = dataset.read_manifest(data)
    for rank in range(2):
        assert len(list(setup.train_stream(config, manifest, rank, 2).batches(0, 1, 1))) == 12

    scored = evaluate.run(EvaluateConfig(model=config.out, data=data, split="val", num_overlays=6))
    assert (scored["num_images"], scored["num_bad_rows"]) == (5, 1)
    best = max(record["val_mean_f1"] for record in history(config.out))
    assert scored["mean_f1"] == pytest.approx(best, abs=1e-6)
    (listed,) = packing.read_problems(scored["out"], packing.QUARANTINE)
    assert (listed["source"], listed["reason"]) == (ids["val"][2], "undecodable")


def test_a_training_with_too_many_bad_rows_ends_at_once_and_goes_on_with_a_larger_fraction(
    ray_cluster, damaged_rows, tmp_path, capsys
):
    data, _ = damaged_rows
    config = smoke(data, tmp_path / "run", max_bad_fraction=0.01)
    assert train(config, tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        f"error: 2 of the 48 train rows of {data} cannot be used, more than --max-bad-fraction 0.01"
    )
    assert result_file.read(config.out)["exit_code"] == 2
    assert num_starts_of_workers(config.out) == 1
    assert len(history(config.out)) == 1
    assert train(config, tmp_path, "--max-bad-fraction", "0.2") == 0
    assert [record["epoch"] for record in history(config.out)] == [1, 2]


def test_a_damaged_file_ends_a_training_at_once_with_one_sentence(ray_cluster, faces, tmp_path, capsys):
    shutil.copytree(faces, tmp_path / "data")
    for file in (tmp_path / "data/train").iterdir():
        file.write_bytes(b"PAR1 garbage PAR1")
    config = smoke(tmp_path / "data", tmp_path / "run")
    assert train(config, tmp_path) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: cannot read {tmp_path}/data/train/part-")
    assert num_starts_of_workers(config.out) == 1


def test_a_fault_that_all_trials_share_ends_a_sweep_with_its_sentence(ray_cluster, damaged_rows, tmp_path, capsys):
    data, _ = damaged_rows
    config = sweep(data, tmp_path / "run", max_bad_fraction=0.01, csr={"num_cycles": 0}, workers={"decode_tasks": 5})
    # So many tasks leave room for one trial at a time.
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert ray_job.main(["tune", "--config", str(tmp_path / "sweep.yaml")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: 2 of the 48 train rows of {data} cannot be used, more than --max-bad-fraction")
    assert [entry["state"] for entry in trials.trial_summaries(config)] == [State.FAILED], "the second one never began"
