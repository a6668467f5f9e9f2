"""The sweep on the shared cluster: real trials with real cycles."""

import json
import os
import time

import pytest
import ray
import yaml
from ray.util.state import list_actors, list_placement_groups, list_tasks

from pipelines import storage
from pipelines.config.training import TrainConfig
from pipelines.errors import RunFailedError, UserError
from pipelines.models import model_directory
from pipelines.regulation.ledger import Ensemble, Ledger, TrialEnd
from pipelines.run import result_file
from pipelines.run.states import state_of
from pipelines.tuning import tune
from tests.support.training import SMOKE, kill_when, sweep


def test_a_sweep_exports_its_best_trial_and_a_configuration_for_train(swept):
    config, result = swept
    assert set(result) == {"run", "best_trial", "best_config", "val_mean_f1", "model", "trials"}
    assert [trial["state"] for trial in result["trials"]] == ["finished", "finished"]
    assert [trial["epochs"] for trial in result["trials"]] == [3, 3]
    assert result["val_mean_f1"] == max(trial["val_mean_f1"] for trial in result["trials"])
    assert model_directory.read_card(config.out).metrics["val_mean_f1"] == result["val_mean_f1"]
    values = yaml.safe_load(storage.read_bytes(result["best_config"]))
    best = TrainConfig.model_validate(values | {"data": config.data, "out": "/unused"})
    parameters = next(t["parameters"] for t in result["trials"] if t["trial"] == result["best_trial"])
    assert best.loss.parsing == parameters["parsing"] != config.loss.parsing
    assert json.dumps(result) and "best: trial" in tune.summary(result)


def test_each_trial_has_a_lineage_of_its_own(swept):
    ledger = Ledger(swept[0].out)
    for trial in ("00000", "00001"):
        assert [record.cycle for record in ledger.of(Ensemble, trial)] == [0, 1, 2]
        assert {name.split("/")[0] for name in ledger.of(Ensemble, trial)[2].coefficients} == {trial}


def test_a_finished_sweep_answers_at_once(swept):
    config, result = swept
    assert tune.run(config) == result


def test_trials_that_are_done_are_not_done_again(swept, ray_cluster):
    config, result = swept
    storage.delete(f"{config.out}/result.json")
    times = {uri: storage.filesystem(uri)[0].modified(uri) for uri in storage.list_files(f"{config.out}/trials")}
    assert tune.run(config) == result
    assert {uri: storage.filesystem(uri)[0].modified(uri) for uri in times} == times
    assert not list_actors(ray_cluster, filters=[("class_name", "=", "Orchestrator"), ("state", "=", "ALIVE")])


@pytest.fixture(scope="module")
def stopped(faces, tmp_path_factory):
    """Two trials of TPE, one after the other, weak ones stopped after an epoch; the configuration and the result.

    With this seed the second one learns far more slowly than the first: on every processor it is a weak one.
    """
    more = {
        "algorithm": "tpe", "num_trials": 2, "early_stopping": True, "grace_epochs": 1,
        "csr": {"num_cycles": 1, "cycle_epochs": 1}, "workers": {"decode_tasks": 5},
        "seed": 245, "search": {"lr": [1e-6, 1e-2]},
    }  # fmt: skip
    config = sweep(faces, tmp_path_factory.mktemp("stopped") / "run", **more)
    return config, result_file.run_and_record("tune", config, tune.run)


def test_a_trial_that_is_stopped_early_frees_its_resources_and_the_orchestrator_knows(stopped, ray_cluster):
    config, result = stopped
    states = {trial["trial"]: (trial["state"], trial["epochs"]) for trial in result["trials"]}
    assert set(states.values()) == {("finished", 2), ("stopped", 1)}
    ledger = Ledger(config.out)
    assert {trial: ledger.find(TrialEnd, trial).state for trial in states} == {t: s for t, (s, _) in states.items()}
    assert_all_is_free(ray_cluster)


def assert_all_is_free(ray_cluster):
    deadline = time.monotonic() + 60  # Ray's cleaner of placement groups looks once a second
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, kept(ray_cluster)
        time.sleep(0.1)
    assert not list_actors(ray_cluster, filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")])


def kept(ray_cluster):
    """What holds CPUs: placement groups, actors and tasks."""
    groups = list_placement_groups(ray_cluster, filters=[("state", "!=", "REMOVED")], limit=1000, detail=True)
    actors = list_actors(ray_cluster, filters=[("state", "!=", "DEAD")], limit=1000, detail=True)
    tasks = list_tasks(ray_cluster, filters=[("state", "=", "RUNNING")], limit=1000)
    return ray.available_resources(), groups, actors, tasks


@pytest.mark.faults
def test_a_trial_that_loses_its_worker_is_begun_again_and_its_controller_replaces_nothing(faces, ray_cluster, tmp_path):
    """The controller of a trial that is stopped may outlive the worker; a place that it asked for then stays taken."""
    config = sweep(faces, tmp_path / "run", schedule=SMOKE["schedule"], csr={"num_cycles": 0}, num_trials=1)
    earlier = ids_of(ray_cluster, "TrainController"), ids_of(ray_cluster, "RayTrainWorker")
    first_epoch = tmp_path / "run/trials/00000/metrics.jsonl"
    thread, killed = kill_when(first_epoch.exists, "RayTrainWorker", ray_cluster)
    result = tune.run(config)
    thread.join()
    assert len(killed) == 1
    assert [(trial["state"], trial["epochs"]) for trial in result["trials"]] == [("finished", 2)]
    controllers = ids_of(ray_cluster, "TrainController") - earlier[0]
    workers = ids_of(ray_cluster, "RayTrainWorker") - earlier[1]
    assert len(controllers) == len(workers) == 2
    assert_all_is_free(ray_cluster)


def ids_of(ray_cluster, class_name):
    """All actors of a class that the cluster has had."""
    return {actor.actor_id for actor in list_actors(ray_cluster, filters=[("class_name", "=", class_name)], limit=1000)}


def test_the_processes_of_a_local_cluster_look_for_it_and_no_other(ray_cluster):
    """Ray Train's cleaner, which frees what a stopped trial held, would ask another cluster of this machine."""
    asked = ray.get(ray.remote(lambda: os.environ["RAY_ADDRESS"]).remote())
    assert asked == ray.get_runtime_context().gcs_address and "RAY_ADDRESS" not in os.environ


@pytest.mark.faults
def test_a_repeated_sweep_stops_and_finishes_the_same_trials(stopped):
    config, result = stopped
    storage.delete(f"{config.out}/result.json")
    assert tune.run(config) == result


@pytest.mark.faults
def test_a_trial_that_diverges_is_told_and_the_others_go_on(faces, tmp_path):
    config = sweep(faces, tmp_path / "run", csr={"num_cycles": 0}, num_trials=1, search={"lr": [1e8, 1e9]})
    with pytest.raises(RunFailedError, match=r"no trial .* finished; trial 00000: the loss .* not finite"):
        tune.run(config)
    assert state_of(f"{config.out}/trials/00000") == "failed"


def test_what_never_fits_the_cluster_is_told_at_once(faces, tmp_path):
    config = sweep(faces, tmp_path / "run", workers={"num_workers": 6}, cluster={"max_cpus": 4})
    with pytest.raises(UserError, match=r"needs 12.* CPUs at once"):
        tune.run(config)
