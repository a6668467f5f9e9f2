"""`ray job stop`, and a head that is killed and started again, in the middle of a training on S3."""

import hashlib
import json
import os
import signal
import subprocess
import time
from typing import Any

import psutil
import pytest

from cluster.head import Head, ray_head, start_head, stop_head
from cluster.object_store import client
from tests.support.commands import ROOT, run_command

TRAIN = ("train", "--preset", "cpu-smoke", "--schedule.epochs", "6", "--csr.num-cycles", "1", "--csr.cycle-epochs", "2")
GRACE_SECONDS = 3
"""Between SIGTERM and SIGKILL of `ray job stop`."""


@pytest.fixture(scope="module")
def data(s3: str) -> str:
    uri = f"{s3}/stopped/data"
    done = run_command("synth", "--out", uri, "--num-images", 120, "--image-size", 64)
    assert done.code == 0, done.stderr
    return uri


@pytest.fixture(scope="module")
def undisturbed(s3: str, data: str) -> tuple[str, list[object]]:
    out = f"{s3}/stopped/calm"
    done = run_command(*TRAIN, "--data", data, "--out", out)
    assert done.code == 0, done.stderr
    return trained(out)


def content(uri: str) -> bytes:
    found: bytes = client(os.environ).cat_file(uri.removeprefix("s3://"))
    return found


def trained(out: str) -> tuple[str, list[object]]:
    """The exported weights' digest and the score of each epoch."""
    rows = [json.loads(line) for line in content(f"{out}/metrics.jsonl").splitlines()]
    return hashlib.sha256(content(f"{out}/model/model.safetensors")).hexdigest(), [
        (row["epoch"], row["val_mean_f1"]) for row in rows
    ]


def job(head: Head, *arguments: str, check: bool = True) -> str:
    """`ray job ...` as a user types it; what it prints."""
    env = os.environ | dict(head.environment)
    done = subprocess.run(["ray", "job", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def submitted(head: Head, name: str, command: tuple[str, ...], *options: str, check: bool = True) -> str:
    entrypoint = ["--working-dir", ".", "--", "python", "ray_job.py", *command]
    return job(head, "submit", "--submission-id", name, *options, *entrypoint, check=check)


def wait_for_epoch(out: str, number: int, head: Head, name: str) -> None:
    deadline = time.monotonic() + 200
    while not client(os.environ).exists(path := f"{out}/metrics.jsonl") or content(path).count(b"\n") < number:
        assert time.monotonic() < deadline, job(head, "logs", name)
        time.sleep(0.1)


def status(out: str) -> dict[str, Any]:
    return run_command("status", "--run", out, "--json").result


@pytest.mark.faults
def test_a_job_that_is_stopped_ends_in_time_and_continues_to_the_same_weights(s3, data, undisturbed, tmp_path):
    out = f"{s3}/stopped/run"
    command = (*TRAIN, "--data", data, "--out", out)
    with ray_head(tmp_path / "head", num_cpus=4) as head:
        submitted(head, "first", command, "--no-wait")
        wait_for_epoch(out, 2, head, "first")
        told = status(out)
        assert told["state"] == "running"
        driver = psutil.Process(told["owner"]["pid"])
        job(head, "stop", "--no-wait", "first")
        began = time.monotonic()
        while client(os.environ).exists(f"{out}/owner.json"):
            assert driver.is_running(), "it was killed before it could give the run back"
        assert time.monotonic() - began < GRACE_SECONDS
        driver.wait(60)
        assert status(out)["state"] == "interrupted"
        told = submitted(head, "second", command)
        assert "epoch 1/8 done" not in told and "epoch 8/8 done" in told
    assert trained(out) == undisturbed


@pytest.mark.faults
def test_a_head_killed_with_9_is_replaced_and_the_same_command_continues(s3, data, undisturbed, tmp_path):
    out = f"{s3}/stopped/headless"
    command = (*TRAIN, "--data", data, "--out", out)
    head, process = start_head(tmp_path / "first", num_cpus=4)
    try:
        submitted(head, "first", command, "--no-wait")
        wait_for_epoch(out, 2, head, "first")
        driver = psutil.Process(status(out)["owner"]["pid"])
        os.killpg(process.pid, signal.SIGKILL)
        driver.wait(120)  # without its head it ends, by itself or by the watch of its job
    finally:
        stop_head(head, process)
    assert status(out)["state"] == "interrupted"
    with ray_head(tmp_path / "second", num_cpus=4) as head:
        told = submitted(head, "second", command)
        assert "epoch 1/8 done" not in told and "epoch 8/8 done" in told
    assert trained(out) == undisturbed


@pytest.mark.faults
def test_of_two_jobs_on_one_run_the_second_is_refused_and_the_first_goes_on(s3, data, undisturbed, tmp_path):
    out = f"{s3}/stopped/twice"
    command = (*TRAIN, "--data", data, "--out", out)
    with ray_head(tmp_path / "head", num_cpus=4) as head:
        submitted(head, "first", command, "--no-wait")
        wait_for_epoch(out, 1, head, "first")
        driver = psutil.Process(status(out)["owner"]["pid"])
        driver.suspend()  # a fast machine would be done before the second one begins
        refused = submitted(head, "second", command, check=False)
        driver.resume()
        deadline = time.monotonic() + 200
        assert f"is being run by process {driver.pid} on" in refused and "Traceback" not in refused
        while (state := status(out)["state"]) == "running":  # each look takes a second or more
            assert time.monotonic() < deadline
        assert state == "finished"
    assert trained(out) == undisturbed
