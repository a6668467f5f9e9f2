"""What is missing is told before any work begins, by a command itself and by `plan`."""

import json
import os
import re
import subprocess
import sys

import pytest
import ray

import ray_job
from dmlcsr.footprint import training_bytes
from dmlcsr.model import Architecture
from pipelines.errors import UserError
from pipelines.run import preflight
from pipelines.run.preflight import Capacity, Needs
from pipelines.run.ray_internals import Node
from pipelines.run.session import ray_session
from tests.support.commands import ROOT
from tests.support.networks import kept_bytes, weight_bytes

ROOMY = Capacity(cpus=8, gpus=0, node_bytes=8 * 2**30)


def plan(capsys, *arguments):
    code = ray_job.main(["plan", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_command_that_fits_lacks_nothing():
    assert preflight.shortfalls(Needs(8, 0, 2**30), ROOMY) == []


@pytest.mark.parametrize(
    ("needs", "part"),
    [
        (Needs(9), "needs 9 CPUs at once and the cluster has 8"),
        (Needs(1, 1), "needs 1 GPUs at once and the cluster has 0"),
        (Needs(1, 0, 9 * 2**30), "needs about 9.0 GiB and the largest node has 8.0 GiB"),
    ],
)
def test_what_is_missing_is_one_sentence(needs, part):
    [problem] = preflight.shortfalls(needs, ROOMY)
    assert part in problem and "\n" not in problem


@pytest.mark.parametrize(
    ("needs", "nodes", "part"),
    [
        (Needs(4, 0, 0, 1, 3), [Node(2, 0), Node(2, 0)], "the worker needs 3 CPUs on one node, .* room for 0 "),
        (Needs(6, 0, 0, 3, 2), [Node(3, 0), Node(3, 0)], "each of 3 workers needs 2 CPUs on one node, .* room for 2 "),
        (Needs(4, 2, 0, 2, 2), [Node(1, 2), Node(7, 0)], "2 CPUs and 1 GPU on one node, .* has 7 CPUs and 0 GPUs"),
        (Needs(4, 0, 0, 1, 3), [Node(2, 0), Node(3, 0)], None),
        (Needs(4, 0, 0, 1, 3), [Node(2, 0), Node(16, 2, 3)], None),  # of an autoscaler
        (Needs(4, 0, 0, 1, 3), [Node(2, 0, sys.maxsize)], "room for 0 "),
        (Needs(6, 2, 0, 2, 2), [Node(4, 1, 2)], None),
        (Needs(4), [Node(2, 0), Node(2, 0)], None),
    ],
)
def test_a_worker_that_no_node_has_room_for_is_told_before_it_is_waited_for(needs, nodes, part):
    problems = preflight.shortfalls(needs, Capacity(cpus=8, gpus=2, node_bytes=0, nodes=tuple(nodes)))
    assert len(problems) == (part is not None) and all(re.search(str(part), problem) for problem in problems)


def test_a_session_counts_the_cluster_that_is_there(ray_cluster):
    assert preflight.capacity().cpus == ray.cluster_resources()["CPU"]
    assert preflight.capacity().node_bytes > 0
    with pytest.raises(UserError, match="needs 1000 CPUs"), ray_session(Needs(cpus=1000)):
        pass


def test_a_full_disk_is_told_before_work(ray_cluster, monkeypatch):
    assert preflight.disk_problems() == []
    monkeypatch.setattr(preflight, "_FULL", 0.0)
    with pytest.raises(UserError, match=r"the disk of .* is \d+% full"), ray_session(Needs(cpus=1)):
        pass


def test_other_versions_on_the_cluster_are_one_sentence(ray_cluster, tmp_path):
    """A driver that says it is another Ray: the comparison is Ray's own."""
    script = "import ray, sys; ray.__version__ = '2.1.0'; import ray_job; sys.exit(ray_job.main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "synth", "--num-images", "10", "--out", str(tmp_path / "out")]
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"RAY_ADDRESS": address}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "runs other versions" in done.stderr.splitlines()[-1] and "2.1.0" in done.stderr.splitlines()[-1]


def test_a_plan_tells_steps_and_bytes_and_does_nothing(faces, tmp_path, capsys):
    out = tmp_path / "run"
    code, found = plan(capsys, "train", "--preset", "cpu-smoke", "--data", faces, "--out", out, "--schedule.epochs", 3)
    assert code == 0 and found["missing"] == [] and not out.exists()
    work = found["work"]
    assert (work["training_rows"], work["validation_rows"]) == (48, 6)
    assert work["steps"] == 3 * work["steps_of_an_epoch"] > 0
    assert work["bytes_read_in_an_epoch"] < sum(path.stat().st_size for path in faces.rglob("*.parquet"))
    assert found["needs"]["cpus"] == 2
    network, process = Architecture(num_classes=19, depth=18, width=0.125), 600 * 2**20
    weights, kept, needed = weight_bytes(network), kept_bytes(network, 4, 64), found["needs"]["process_bytes"]
    assert process + 4 * weights + kept < needed < process + 4 * weights + 4 * kept  # AdamW: two states
    assert needed - training_bytes(network, 4, 64, optimizer_states=1) == weights


def test_a_plan_names_all_that_is_missing(faces, capsys):
    flags = ["--workers.use-gpu", "true", "--workers.num-workers", 2]
    _, found = plan(capsys, "train", "--preset", "cpu-smoke", "--data", faces, "--out", "s3://no-such-bucket/x", *flags)
    assert len(found["missing"]) == 2
    assert "no bucket no-such-bucket" in found["missing"][0] and "2 GPUs" in found["missing"][1]


def test_a_plan_of_unreadable_data_says_so(tmp_path, capsys):
    _, found = plan(capsys, "train", "--data", tmp_path / "none", "--out", tmp_path / "run")
    assert found["work"] == {} and "is not a data set" in found["missing"][0]


def test_commands_without_work_have_no_plan(tmp_path, capsys):
    assert ray_job.main(["plan", "status", "--run", str(tmp_path)]) == 2
    assert "`status` has no plan" in capsys.readouterr().err
