"""Training on the shared cluster: real Ray Train, real workers, real kills."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import yaml
from ray.util.state import list_actors

from dmlcsr.model import DMLCSR
from dmlcsr.weights import Preprocessing
from pipelines import storage
from pipelines.config.commands import EvaluateConfig
from pipelines.config.training import TrainConfig
from pipelines.data import dataset, decode_tasks, ordered, row_groups
from pipelines.data.ordered import OrderedRows
from pipelines.errors import OutputTakenError, UserError
from pipelines.inference import evaluate
from pipelines.models import model_directory, setup
from pipelines.run import result_file
from pipelines.training import train
from tests.support.training import history, same_weights, smoke, weights


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """A finished undisturbed run of one worker, and what it returned."""
    config = smoke(faces, tmp_path_factory.mktemp("trained") / "run")
    return config, result_file.run_and_record("train", config, train.run)


def test_a_run_directory_holds_what_the_contract_promises(trained):
    config, result = trained
    out = config.out
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "result.json", "tensorboard"):
        assert storage.exists(storage.join(out, name)), name
    assert TrainConfig.model_validate(yaml.safe_load(storage.read_bytes(f"{out}/config.yaml"))) == config
    assert result["model"] == f"{out}/model" and result["num_epochs"] == 2 and not result["resumed"]
    assert result["val_mean_f1"] == max(record["val_mean_f1"] for record in history(out))
    assert [record["epoch"] for record in history(out)] == [1, 2]
    assert result_file.finished_result(out, "train") == result


def test_the_loss_falls(trained):
    first, last = history(trained[0].out)
    assert last["loss_total"] < first["loss_total"]


def test_the_exported_model_has_no_edge_heads_and_knows_where_it_comes_from(trained, faces):
    _, result = trained
    parser, card = model_directory.read_model(result["model"])
    assert not [name for name in parser.state_dict() if "edge" in name]
    assert card.taxonomy.name == "celebamask_hq" and card.preprocessing.size == 64
    assert card.lineage["data_digest"] == dataset.read_manifest(str(faces)).digest
    assert card.metrics["val_mean_f1"] == result["val_mean_f1"]


def test_validation_in_training_is_what_evaluate_measures(trained, faces):
    config, result = trained
    scored = evaluate.run(EvaluateConfig(model=config.out, data=str(faces), split="val", num_overlays=0))
    assert scored["num_images"] == 6
    assert scored["mean_f1"] == pytest.approx(result["val_mean_f1"], abs=1e-6)


def test_a_finished_run_answers_at_once(trained):
    config, result = trained
    begin = storage.filesystem(config.out)[0].modified(f"{config.out}/model/model.safetensors")
    assert train.run(config) == result
    assert storage.filesystem(config.out)[0].modified(f"{config.out}/model/model.safetensors") == begin


def test_the_same_directory_with_another_configuration_is_refused(trained):
    config, _ = trained
    with pytest.raises(OutputTakenError, match=r"seed = 0, not 1"):
        train.run(config.model_copy(update={"seed": 1}))


def test_a_killed_worker_is_replaced_and_the_weights_are_those_of_an_undisturbed_run(
    trained, faces, ray_cluster, tmp_path
):
    config = smoke(faces, tmp_path / "run")
    killed = []

    def kill_after_the_first_epoch():
        while not storage.exists(f"{config.out}/metrics.jsonl"):
            time.sleep(0.05)
        alive = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
        for actor in list_actors(ray_cluster, filters=alive):
            os.kill(actor.pid, signal.SIGKILL)
            killed.append(actor.pid)

    thread = threading.Thread(target=kill_after_the_first_epoch)
    thread.start()
    train.run(config)
    thread.join()
    assert killed
    assert [record["epoch"] for record in history(config.out)] == [1, 2]
    assert same_weights(weights(config.out), weights(trained[0].out))


def test_two_workers_on_s3_see_every_row_and_score_like_one(trained, faces, s3):
    """Same data, same global batch; what differs is the partition and batch norm per worker."""
    data, out = f"{s3}/faces-copy", f"{s3}/runs/two"
    fs, path = storage.filesystem(data)
    fs.put(str(faces), path, recursive=True)
    config = smoke(data, out, workers={"num_workers": 2}, optimizer={"batch_size": 2})
    result = train.run(config)
    assert [record["epoch"] for record in history(out)] == [1, 2]
    assert history(out)[-1]["loss_total"] < history(out)[0]["loss_total"]
    scored = evaluate.run(EvaluateConfig(model=out, data=data, split="val", num_overlays=1))
    assert scored["mean_f1"] == pytest.approx(result["val_mean_f1"], abs=1e-6)
    assert scored["out"].startswith(f"{out}/evaluation/faces-copy-") and scored["out"].endswith("-val")
    assert storage.exists(f"{scored['out']}/overlays/worst-01.png")
    assert abs(result["val_mean_f1"] - trained[1]["val_mean_f1"]) < 0.1


def test_training_starts_from_another_models_weights(trained, faces, tmp_path):
    config = smoke(faces, tmp_path / "run", init=trained[0].out)
    manifest = dataset.read_manifest(str(faces))
    train.check_inputs(config, manifest)
    network = setup.build_network(config, manifest.taxonomy)
    assert isinstance(network, DMLCSR)
    assert same_weights(weights(trained[0].out), network.decoupled().state_dict())


def test_weights_that_do_not_fit_at_all_are_refused(trained, faces, tmp_path):
    config = smoke(faces, tmp_path / "run", init=trained[0].out, model={"depth": 50, "width": 0.25})
    with pytest.raises(UserError, match="fewer than half of the encoder"):
        train.run(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": {"batch_size": 64}}, "too few for one step"),
        ({"workers": {"num_workers": 7}}, "6 validation rows"),
        ({"workers": {"num_workers": 6}, "optimizer": {"batch_size": 4}}, "needs 12 CPUs at once"),
        ({"init": "/nowhere"}, "holds no model"),
        ({"data": "/nowhere"}, "is not a data set"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(faces, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        train.run(smoke(**{"data": faces, "out": tmp_path / "run"} | change))


@pytest.mark.parametrize(("max_tasks", "num_workers"), [(2000, 4), (1, 3)])
def test_validation_rows_of_all_workers_are_each_row_once(faces, monkeypatch, max_tasks, num_workers):
    monkeypatch.setattr(decode_tasks, "MAX_TASKS", max_tasks)
    monkeypatch.setattr(ordered, "_CHUNK_ROWS", 1)
    source = row_groups.open_split(str(faces), dataset.read_manifest(str(faces)), "val")
    shares = [
        OrderedRows(source=source, preprocessing=Preprocessing(size=32), rank=rank, world_size=num_workers)
        for rank in range(num_workers)
    ]
    rows = [int(number) for share in shares for batch in share.batches(3, 1) for number in batch["row"]]
    assert sorted(rows) == list(np.arange(source.num_rows))
