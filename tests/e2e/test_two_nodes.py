"""The real command line on a cluster of two nodes of one CPU each: where the decoding of the training data runs."""

import json
import os
import subprocess
from typing import Any

import pytest

from cluster.head import Head, alive_nodes, ray_head, ray_node
from tests.support.commands import run_command


@pytest.fixture(scope="module")
def head(s3, tmp_path_factory):
    """A head of one CPU with a further node of one CPU; both reach the S3 server."""
    folder = tmp_path_factory.mktemp("cluster")
    with ray_head(folder / "head", num_cpus=1) as head, ray_node(head, folder / "node", num_cpus=1):
        yield head


def listed(head: Head, kind: str) -> list[dict[str, Any]]:
    """What Ray's state API knows of all `tasks` or `actors` that there were."""
    command = ["ray", "list", kind, "--detail", "--format=json", "--limit=10000"]
    env = os.environ | dict(head.environment)
    entries: list[dict[str, Any]] = json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
    return entries


@pytest.mark.faults
def test_decoding_runs_on_the_node_that_has_no_trainer(head, s3):
    data, out = f"{s3}/two-nodes/data", f"{s3}/two-nodes/run"
    synth = ("synth", "--out", data, "--num-images", 240, "--image-size", 64)
    train = ("train", "--preset", "cpu-smoke", "--data", data, "--out", out)
    for command in (synth, train):
        done = run_command(*command, **head.driver_environment)
        assert done.code == 0, done.stderr
    (trainer,) = (actor for actor in listed(head, "actors") if actor["class_name"] == "RayTrainWorker")
    # Whatever the tasks are called: work of the training on a CPU that is no actor's.
    decoding = [
        task["node_id"]
        for task in listed(head, "tasks")
        if task["job_id"] == trainer["job_id"]
        and task["type"] == "NORMAL_TASK"
        and (task["required_resources"] or {}).get("CPU")
        and task["state"] == "FINISHED"  # one that a stream's end has cancelled was never placed
    ]
    assert len(decoding) >= 2 * 3  # epochs x chunks of at most 64 of the 192 training rows
    (other,) = {node["node_id"] for node in alive_nodes(head)} - {trainer["node_id"]}
    assert set(decoding) == {other}
