"""The Ray cluster of a command: the given cluster, or a local one that ends with the command."""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.data

from pipelines.errors import UserError
from pipelines.run import console, preflight, ray_settings, worker_environment
from pipelines.run.preflight import Needs
from pipelines.run.ray_calls import original_errors


@contextmanager
def ray_session(needs: Needs, inputs: Sequence[str] = ()) -> Iterator[None]:
    """Connects to RAY_ADDRESS (set inside jobs) or starts a local cluster; disconnects or stops it at the end.

    Raises UserError if the cluster has too few resources (see `preflight`), runs other versions of Ray or Python, or if
    its workers do not find the files or folders `inputs`.
    """
    if ray.is_initialized():  # the caller, a notebook or a test, has started a cluster
        with _original_errors():
            preflight.check(needs)
            yield
        return
    ray_settings.HEALTH_CHECK_SECONDS.set_default()
    address = os.environ.get(ray_settings.ADDRESS)
    if address and address.startswith("ray://"):
        raise UserError(
            f"RAY_ADDRESS={address} is an address of Ray Client, which cannot run these commands; use host:port of "
            "the head (port 6379) on a machine of the cluster, or `ray job submit` with the URL of its dashboard"
        )
    try:
        if address:
            env = {"env_vars": worker_environment.variables()}
            ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING, runtime_env=env)
        else:
            start_local(preflight.local_cpus(needs), log_to_driver=True, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if not address:
            raise
        if "Version mismatch" in str(error):
            versions = " ".join(str(error).removeprefix("Version mismatch:").split())
            raise UserError(
                f"the cluster at RAY_ADDRESS={address} runs other versions ({versions}); install the same versions "
                "here, or let `ray job submit` start the command there"
            ) from error
        raise UserError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({_first_line(error)}); use host:port of its head, "
            "or unset it for a local cluster; http:// addresses are for `ray job submit`"
        ) from error
    console.show_worker_logs()
    try:
        with _original_errors():
            preflight.check(needs)
            if address and inputs:
                worker_environment.check_inputs(inputs)
            yield
    finally:
        ray.shutdown()


def start_local(num_cpus: int, **options: Any) -> Any:
    """Starts a new local cluster with `ray.init`. Its processes find it even if this machine has other clusters.

    Ray's processes look for their cluster in RAY_ADDRESS, or else in a file that all clusters of a machine share.
    Without RAY_ADDRESS Ray Train's cleaner would ask another cluster, and the CPUs and GPUs of a stopped trial would
    never be freed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    inherited = {ray_settings.CONTROL_PORT: str(port), ray_settings.ADDRESS: f"127.0.0.1:{port}"}
    os.environ.update(inherited)
    try:
        return ray.init(address="local", num_cpus=num_cpus, **options)
    finally:
        for name in inherited:
            del os.environ[name]


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def _original_errors() -> Iterator[None]:
    """Raises the UserError of a task itself instead of a RayTaskError with a remote traceback."""
    ray.data.DataContext.get_current().raise_original_map_exception = True
    # Ray Data logs a warning if progress bars are off.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with original_errors():
        yield
