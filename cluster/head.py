"""A Ray cluster on this machine: loopback only, token authentication, dashboard on."""

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
STOP_SECONDS = 30.0
_BIN = Path(sys.executable).parent
_LOOPBACK = ray_settings.LOOPBACK_ONLY.variables


class Head(NamedTuple):
    """A running head: `environment` is what `ray job submit` needs, `driver_environment` what a driver needs."""

    dashboard: str
    environment: Mapping[str, str]
    address: str
    """host:port of the cluster's control store (GCS): drivers and further nodes connect there."""

    @property
    def driver_environment(self) -> dict[str, str]:
        return {**self.environment, **_LOOPBACK, ray_settings.ADDRESS: self.address}


class Node(NamedTuple):
    """A further node of a head's cluster; `process` leads the group of all its processes."""

    node_id: str
    process: "subprocess.Popen[bytes]"

    def kill(self) -> None:
        """What the loss of a machine is to the cluster: kill -9 of everything on the node at once."""
        os.killpg(self.process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def ray_head(folder: Path, num_cpus: int) -> Iterator[Head]:
    """A head for the time of a `with` block; see `start_head`. Ends it, and nothing else, on the way out."""
    head, process = start_head(folder, num_cpus)
    try:
        yield head
    finally:
        stop_head(head, process)


def start_head(
    folder: Path, num_cpus: int, inherited: Mapping[str, str] = MappingProxyType({})
) -> "tuple[Head, subprocess.Popen[bytes]]":
    """Starts a head whose log and token live in `folder`; jobs and workers get the variables `inherited`.

    Raises RuntimeError where the head does not come up.
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
    """Joins a further node to a head; its log lives in `folder`. Ends the node, and nothing else, on the way out.

    Raises RuntimeError where the node does not join.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = _new_name()
    # Ray joins no node where `_LOOPBACK` is set, and replaces a head's address of 127.0.0.1 by this machine's outer
    # one, where this head does not listen. 0.0.0.0 reaches it, and shows Ray that the node's own address is 127.0.0.1.
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
    """`ray start` in a process group of its own: all of it can be ended by the group's id."""
    everything = {name: value for name, value in os.environ.items() if name not in _LOOPBACK}
    everything |= {**environment, **ray_settings.DRAIN_SECONDS.variables}
    del everything[ray_settings.ADDRESS]  # for the command line of jobs only: it would send `ray start` elsewhere
    everything["NPY_DISABLE_CPU_FEATURES"] = "X86_V4"  # see pipelines/__init__.py
    # Jobs go to this port of the node's agent, which is a fixed one by default: another cluster's may be there.
    agent = f"--dashboard-agent-listen-port={free_port()}"
    command = [f"{_BIN}/ray", "start", "--block", "--disable-usage-stats", agent, *options]
    with log.open("w") as file:
        return subprocess.Popen(command, env=everything, stdout=file, stderr=file, start_new_session=True)


def _new_name() -> str:
    return f"node-{secrets.token_hex(8)}"


def _wait_until_joined(process: "subprocess.Popen[bytes]", head: Head, name: str, log: Path) -> str:
    """The id of the node of that name, as soon as the cluster counts it among its own."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):  # a starting head refuses connections, then answers 5xx
            for node in alive_nodes(head):
                if node["node_name"] == name:
                    return str(node["node_id"])
        time.sleep(0.5)
    raise RuntimeError(f"`ray start` brought up no node within {START_SECONDS:.0f} s; see {log}")


def alive_nodes(head: Head) -> list[dict[str, Any]]:
    """The nodes that the cluster counts on: `node_id`, `node_name`, `is_head_node` and more of each."""
    token = Path(head.environment[ray_settings.TOKEN_FILE]).read_text()
    request = urllib.request.Request(
        f"{head.dashboard}/api/v0/nodes?filter_keys=state&filter_predicates=%3D&filter_values=ALIVE",
        headers={"Authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        nodes: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        return nodes


def _stop(process: "subprocess.Popen[bytes] | psutil.Process") -> None:
    """`ray start --block` ends its children on SIGTERM; what is left of the group after that is killed."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _forget(head: Head) -> None:
    """Removes the note on the latest cluster of this machine, if it is this one: Ray would look for it for 20 s."""
    note = ray_internals.latest_cluster_file()
    with suppress(FileNotFoundError):
        if note.read_text().strip().endswith(head.address.removeprefix("127.0.0.1")):
            note.unlink()
