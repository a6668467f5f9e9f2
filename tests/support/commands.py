"""Runs the real command line in separate processes."""

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
    """The exit code and output of a command that ran in a separate process."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object on the last line of standard output."""
        value: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return value


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "ray_job.py"), *map(str, arguments)]


def run_command(*arguments: object, timeout: float = 300, **environment: str) -> Finished:
    """Runs the real command line to its end. It starts its own cluster, because RAY_ADDRESS is unset."""
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | environment
    done = subprocess.run(
        command_line(*arguments), capture_output=True, text=True, timeout=timeout, env=env, cwd=ROOT, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables, for example of an S3 server, for this process and its children in a `with` block.

    Cached S3 clients are dropped at both ends, because a client keeps using the server that it was created for.
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
    """Asserts that a command succeeds although the S3 server dies and returns after `seconds`.

    The server is killed as soon as the object or folder `begun` exists.
    """
    fs = client(store.environment)
    process = started(log, *arguments, **store.environment)
    wait_for(lambda: fs.exists(begun) and fs.find(begun), process, log)
    store.kill()
    time.sleep(seconds)  # the outage itself
    store.start()
    assert process.wait(300) == 0, log.read_text()
    assert "does not answer" in log.read_text()
