"""What all tests share. Pipeline tests use one Ray cluster and one S3 server per session."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest
import torch

os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback only; see pipelines/__init__.py
ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"
# A busy machine is no fault. `--hypothesis-profile=thorough` is what `make test-faults` gives.
hypothesis.settings.register_profile("usual", deadline=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("usual")


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Two threads on two shared cores are several times slower than one."""
    torch.set_num_threads(1)


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
    from pipelines.s3 import PatientS3FileSystem

    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        PatientS3FileSystem.clear_instance_cache()
        yield
    PatientS3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket on a real S3 server, `s3://bucket`; this process and its children have the credentials."""
    from cluster.object_store import client, object_store

    with object_store(tmp_path_factory.mktemp("store") / "objects") as store, variables(store.environment):
        client(store.environment).mkdir("faces")
        yield "s3://faces"


@pytest.fixture(scope="session")
def ray_cluster(s3: str) -> Iterator[str]:
    """One local cluster for all pipeline tests, and the address of its dashboard; its workers reach the S3 server."""
    import ray

    from pipelines.session import start_local

    context = start_local(8, log_to_driver=False, logging_level="ERROR")
    yield f"http://{context.dashboard_url}"
    ray.shutdown()


@pytest.fixture(scope="session")
def faces(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed data set of 60 procedural faces of 96 pixels: 48 / 6 / 6 rows."""
    from pipelines import synth
    from pipelines.config import SynthConfig

    out = tmp_path_factory.mktemp("faces") / "data"
    synth.run(SynthConfig(out=str(out), num_images=60, image_size=96, label_noise=0.5))
    return out
