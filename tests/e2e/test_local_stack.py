"""`python -m cluster.local` as a user runs it: up, a job on s3://, a crash, up again, down."""

import json
import os
import signal
import stat
import subprocess
import sys

import pytest

from cluster.local import BUCKET, Stack
from cluster.object_store import client
from tests.support.commands import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("local") / "stack"
    yield found
    Stack(found).down()


def local(folder, action):
    command = [sys.executable, "-m", "cluster.local", action, "--folder", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)


def in_its_shell(folder, command):
    """What a shell does that has sourced the file."""
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"  # noqa: PTH120
    script = f". {folder}/env && {command}"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))} | {"PATH": path}
    return subprocess.run(["sh", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)


def pids(folder):
    return {name: service.pid for name, service in Stack(folder).services().items()}


def test_the_stack_serves_jobs_survives_a_crash_and_ends_what_it_started(folder, s3):
    started = local(folder, "up")
    assert started.returncode == 0, started.stderr
    before = pids(folder)
    for private in ("env", "stack.json"):
        assert stat.S_IMODE((folder / private).stat().st_mode) == 0o600
    assert "already running" in local(folder, "up").stdout and pids(folder) == before

    synth = f"synth --num-images 10 --image-size 32 --out s3://{BUCKET}/faces --json"
    job = in_its_shell(folder, f"ray job submit --working-dir . -- python ray_job.py {synth}")
    assert job.returncode == 0, job.stdout + job.stderr
    again = in_its_shell(folder, f"python ray_job.py {synth}")  # a driver on the same cluster, without a job
    assert json.loads(again.stdout.splitlines()[-1])["num_rows"] == {"train": 8, "val": 1, "test": 1}, again.stderr

    os.kill(before["store"], signal.SIGKILL)
    assert local(folder, "status").returncode == 1
    assert local(folder, "up").returncode == 0
    after = pids(folder)
    assert after["store"] != before["store"]
    assert client(Stack(folder).environment).exists(f"{BUCKET}/faces/dataset.json"), "objects outlive their server"

    assert local(folder, "down").stdout == "the stack is down\n"
    assert Stack(folder).services()["store"].process is None
    assert not (folder / "env").exists()
    for name in ("store", "head"):
        with pytest.raises(ProcessLookupError):
            os.killpg(after[name], 0)
    assert client(os.environ).exists(s3), "another server of this machine goes on"
    assert local(folder, "down").stdout == "nothing was running\n"
