"""A cluster for end-to-end tests that are not about the start or end of one, and ways to run commands."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import ray_job
from cluster.head import Head, ray_head
from tests.support.commands import Finished, run_command


@pytest.fixture(scope="session")
def head(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head of four CPUs whose workers reach the S3 server of the session."""
    with ray_head(tmp_path_factory.mktemp("head"), num_cpus=4) as head:
        yield head


@pytest.fixture(scope="session")
def run_on_head(head: Head) -> Callable[..., Finished]:
    """`run_command` on the shared head, which saves the start of a cluster."""
    environment: dict[str, Any] = head.driver_environment
    return partial(run_command, **environment)


@pytest.fixture
def run_here(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """The command line in this process."""

    def run(*arguments: object) -> Finished:
        code = ray_job.main([str(argument) for argument in arguments])
        return Finished(code, *capsys.readouterr())

    return run
