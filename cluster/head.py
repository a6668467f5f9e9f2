"""A Ray cluster on this machine, with token authentication and dashboard. It listens on loopback only."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import psutil

from pipelines.run import ray_internals, ray_settings

START_SECONDS = 90.0
"""Longest time in seconds that `ray start` may take; it is generous, since a busy machine is slow."""
STOP_SECONDS = 30.0
"""Time in seconds that `ray start` gets to end its processes before they are killed."""
_BIN = Path(sys.executable).parent
_LOOPBACK = ray_settings.LOOPBACK_ONLY.variables


class Head(NamedTuple):
    """A running head node."""

    dashboard: str
    """URL of the dashboard."""
    environment: Mapping[str, str]
    """Environment variables that `ray job submit` needs."""
    address: str
    """host:port of the cluster's control store (GCS), which drivers and further nodes connect to."""

    @property
    def driver_environment(self) -> dict[str, str]:
        """The environment variables that a driver on this machine needs."""
        return {**self.environment, **_LOOPBACK, ray_settings.ADDRESS: self.address}


class Node(NamedTuple):
    """A further node of a head's cluster. `process` is the leader of the process group of the node."""

    node_id: str
    process: "subprocess.Popen[bytes]"

    def kill(self) -> None:
        """Kills all processes of the node with SIGKILL, which simulates the loss of a machine."""
        os.killpg(self.process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def ray_head(folder: Path, num_cpus: int) -> Iterator[Head]:
    """Runs a head during a `with` block and ends it afterwards; see `start_head`."""
    head, process = start_head(folder, num_cpus)
    try:
        yield head
    finally:
        stop_head(head, process)


def start_head(
    folder: Path, num_cpus: int, inherited: Mapping[str, str] = MappingProxyType({})
) -> "tuple[Head, subprocess.Popen[bytes]]":
    """Starts a head whose log and token are in `folder`. Jobs and workers get the environment variables `inherited`.

    Raises RuntimeError if the head does not start within START_SECONDS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port, dashboard_port = free_port(), free_port()
    dashboard = f"http://127.0.0.1:{dashboard_port}"
    environment = {
        "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",  # jobs run the `python` that the head finds
        **ray_settings.AUTHENTICATION.variables,
        ray_settings.TOKEN_FILE: str(token),
        ray_settings.ADDRESS: dashboard,
    }
    name = _new_name()
    options = [
        "--head", f"--port={port}", f"--num-cpus={num_cpus}", f"--node-name={name}",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
    ]  # fmt: skip
    log = folder / "head.log"
    process = _ray_start(options, {**environment, **_LOOPBACK, **inherited}, log)
    head = Head(dashboard, environment, f"127.0.0.1:{port}")
    try:
        _wait_until_joined(process, head, name, log)
    except BaseException:
        stop_head(head, process)
        raise
    return head, process


def stop_head(head: Head, process: "subprocess.Popen[bytes] | psutil.Process") -> None:
    """Ends a head and all its processes."""
    _stop(process)
    _forget(head)


@contextmanager
def ray_node(head: Head, folder: Path, num_cpus: int) -> Iterator[Node]:
    """Runs a further node of a head's cluster during a `with` block and ends it afterwards. Its log is in `folder`.

    Raises RuntimeError if the node does not join within START_SECONDS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = _new_name()
    # With `_LOOPBACK`, Ray refuses further nodes. Without it, Ray replaces the address 127.0.0.1 by the machine's outer
    # one, on which this head does not listen. 0.0.0.0 reaches the head, and Ray then uses 127.0.0.1 for the node.
    port = int(head.address.partition(":")[2])
    options = [f"--address=0.0.0.0:{port}", f"--num-cpus={num_cpus}", f"--node-name={name}"]
    log = folder / "node.log"
    process = _ray_start(options, head.environment, log)
    try:
        yield Node(_wait_until_joined(process, head, name, log), process)
    finally:
        _stop(process)
        _forget(head)


def _ray_start(options: Sequence[str], environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """Starts `ray start` in a process group of its own, so that the whole group can be ended by its id."""
    everything = {name: value for name, value in os.environ.items() if name not in _LOOPBACK}
    everything |= {**environment, **ray_settings.DRAIN_SECONDS.variables}
    del everything[ray_settings.ADDRESS]  # the dashboard's, for `ray job submit`; `ray start` would try to join it
    everything["NPY_DISABLE_CPU_FEATURES"] = "X86_V4"  # see pipelines/__init__.py
    # Jobs are sent to this port of the node's agent. Its default is fixed, and another cluster may use it.
    agent = f"--dashboard-agent-listen-port={free_port()}"
    command = [f"{_BIN}/ray", "start", "--block", "--disable-usage-stats", agent, *options]
    with log.open("w") as file:
        return subprocess.Popen(command, env=everything, stdout=file, stderr=file, start_new_session=True)


def _new_name() -> str:
    return f"node-{secrets.token_hex(8)}"


def _wait_until_joined(process: "subprocess.Popen[bytes]", head: Head, name: str, log: Path) -> str:
    """Waits until the cluster lists the node with this name, and returns its id.

    Raises RuntimeError if the process ends or START_SECONDS pass before that.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):  # a starting head refuses connections, then answers 5xx
            for node in alive_nodes(head):
                if node["node_name"] == name:
                    return str(node["node_id"])
        time.sleep(0.5)
    raise RuntimeError(f"`ray start` did not start a node within {START_SECONDS:.0f} s; see {log}")


def alive_nodes(head: Head) -> list[dict[str, Any]]:
    """The alive nodes of the cluster: dicts with `node_id`, `node_name`, `is_head_node` and more."""
    token = Path(head.environment[ray_settings.TOKEN_FILE]).read_text()
    request = urllib.request.Request(
        f"{head.dashboard}/api/v0/nodes?filter_keys=state&filter_predicates=%3D&filter_values=ALIVE",
        headers={"Authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        nodes: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        return nodes


def _stop(process: "subprocess.Popen[bytes] | psutil.Process") -> None:
    """Ends a process group: SIGTERM makes `ray start --block` end its children, SIGKILL ends the remaining ones."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _forget(head: Head) -> None:
    """Removes Ray's file with the address of the latest cluster of this machine, if it names this cluster.

    Otherwise the next driver would try to reach the ended cluster for 20 s.
    """
    note = ray_internals.latest_cluster_file()
    with suppress(FileNotFoundError):
        if note.read_text().strip().endswith(head.address.removeprefix("127.0.0.1")):
            note.unlink()
