"""A training whose only node with CPUs is killed with -9, all its processes at once, and replaced by another one."""

import hashlib
import os

import pytest

from cluster.head import alive_nodes, ray_head, ray_node
from cluster.object_store import client
from tests.support.commands import run_command, started, wait_for

TRAIN = ("train", "--preset", "cpu-smoke", "--schedule.epochs", 6, "--csr.num-cycles", 1, "--csr.cycle-epochs", 2)


@pytest.mark.faults
def test_a_node_killed_in_mid_training_changes_nothing_in_the_end(s3, tmp_path):
    data, out, calm, log = f"{s3}/node/data", f"{s3}/node/run", f"{s3}/node/calm", tmp_path / "log"
    fs = client(os.environ)
    with ray_head(tmp_path / "head", num_cpus=0) as head:
        with ray_node(head, tmp_path / "first", num_cpus=2) as node:
            done = run_command(
                "synth", "--out", data, "--num-images", 120, "--image-size", 64, **head.driver_environment
            )
            assert done.code == 0, done.stderr
            process = started(log, *TRAIN, "--data", data, "--out", out, **head.driver_environment)
            wait_for(lambda: fs.exists(f"{out}/metrics.jsonl"), process, log)
            node.kill()
            wait_for(lambda: node.node_id not in {one["node_id"] for one in alive_nodes(head)}, process, log)
        with ray_node(head, tmp_path / "second", num_cpus=2):
            assert process.wait(300) == 0, log.read_text()
            done = run_command(*TRAIN, "--data", data, "--out", calm, **head.driver_environment)
            assert done.code == 0, done.stderr
    weights = [fs.cat_file(f"{run}/model/model.safetensors") for run in (out, calm)]
    assert hashlib.sha256(weights[0]).digest() == hashlib.sha256(weights[1]).digest()
    assert fs.cat_file(f"{out}/metrics.jsonl").count(b"\n") == 8
