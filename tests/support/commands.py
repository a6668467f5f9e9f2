"""Runs the real command line in processes of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cluster.object_store import ObjectStore, client

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"


class Finished(NamedTuple):
    """A command that ran to its end in a process of its own."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object of the last line of standard output."""
        value: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return value


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "ray_job.py"), *map(str, arguments)]


def run_command(*arguments: object, timeout: float = 300, **environment: str) -> Finished:
    """Runs the real command line, without a cluster but the one it starts."""
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | environment
    done = subprocess.run(
        command_line(*arguments), capture_output=True, text=True, timeout=timeout, env=env, cwd=ROOT, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """This process and its children have these variables, and so reach this S3 server, for the time of a `with` block.

    A client keeps to the server it was made for: none is used again.
    """
    from pipelines.storage.s3 import PatientS3FileSystem

    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        PatientS3FileSystem.clear_instance_cache()
        yield
    PatientS3FileSystem.clear_instance_cache()


def started(log: Path, *arguments: object, **environment: str) -> "subprocess.Popen[bytes]":
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | environment
    with log.open("w") as file:
        return subprocess.Popen(command_line(*arguments), stdout=file, stderr=file, cwd=ROOT, env=env)


def wait_for(
    condition: Callable[[], object], process: "subprocess.Popen[bytes]", log: Path, seconds: float = 200
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def outlasts(store: ObjectStore, seconds: float, begun: str, log: Path, *arguments: object) -> None:
    """The command ends well though the store is killed once `begun` is there and comes back after `seconds`."""
    fs = client(store.environment)
    process = started(log, *arguments, **store.environment)
    wait_for(lambda: fs.exists(begun) and fs.find(begun), process, log)
    store.kill()
    time.sleep(seconds)  # the outage itself
    store.start()
    assert process.wait(300) == 0, log.read_text()
    assert "does not answer" in log.read_text()
