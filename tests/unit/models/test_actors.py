"""How many actors a pool may grow to, and what is said about GPUs that a command leaves idle. Without a cluster."""

import os

import pytest

from pipelines import plan
from pipelines.config.commands import ActorsConfig, PredictConfig
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.models import actors
from pipelines.run import preflight
from pipelines.run.preflight import Capacity, Needs
from pipelines.training import train
from pipelines.tuning import tune
from tests.support.relabelling import write_model

CLUSTER = Capacity(cpus=24, gpus=4, node_bytes=2**34)


@pytest.mark.parametrize(
    ("config", "cluster", "expected"),
    [
        (ActorsConfig(), CLUSTER, 24),
        (ActorsConfig(use_gpu=True), CLUSTER, 4),
        (ActorsConfig(use_gpu=True), CLUSTER._replace(cpus=3), 3),
        (ActorsConfig(max_actors=2), CLUSTER, 2),
        (ActorsConfig(min_actors=5), CLUSTER._replace(cpus=3), 5),
    ],
)
def test_a_pool_grows_to_what_the_cluster_holds_unless_told_otherwise(config, cluster, expected):
    assert actors.max_actors(config, cluster) == expected


def test_bounds_that_cross_are_refused():
    with pytest.raises(ValueError, match=r"min_actors \(3\) must not exceed max_actors \(2\)"):
        ActorsConfig(min_actors=3, max_actors=2)


def test_a_plan_names_the_largest_pool(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"not opened by a plan")
    photos = {
        "model": write_model(tmp_path / "model"),
        "images": str(tmp_path / "images"),
        "out": str(tmp_path / "out"),
    }
    for pool, expected in ((ActorsConfig(), max(2, os.cpu_count())), (ActorsConfig(max_actors=7), 7)):
        found = plan.run("predict", PredictConfig(**photos, actors=pool))
        assert found["work"] == {"images": 1, "actors_at_most": expected} and found["missing"] == []
        assert found["needs"] == {"cpus": 2, "gpus": 0, "process_bytes": 0, "num_workers": 1, "worker_cpus": 1}


def needs(**given):
    return train.needs(TrainConfig(data="/d", out="/o", **given))


@pytest.mark.parametrize("option", ["--actors.use-gpu", "--workers.use-gpu"])
def test_idle_gpus_are_one_sentence_with_the_option(option):
    needed = needs() if "workers" in option else actors.needs(ActorsConfig())
    assert preflight.idle_gpus(needed, CLUSTER) == (
        f"the cluster has 4 GPUs and this command uses CPUs only; {option} true changes that"
    )
    assert preflight.idle_gpus(needed, CLUSTER._replace(gpus=0)) is None


def test_nothing_is_said_where_gpus_are_used_or_cannot_be():
    assert preflight.idle_gpus(needs(workers={"use_gpu": True}), CLUSTER) is None
    assert preflight.idle_gpus(actors.needs(ActorsConfig(use_gpu=True)), CLUSTER) is None
    assert preflight.idle_gpus(Needs(1), CLUSTER) is None
    sweep = TuneConfig(data="/d", out="/o", workers={"use_gpu": True}, cluster={"max_gpus": 8, "max_cpus": 64})
    assert preflight.idle_gpus(tune.min_start_needs(sweep, sweep.cluster, 0), CLUSTER) is None
