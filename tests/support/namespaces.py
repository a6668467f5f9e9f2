"""Several hosts on one Linux machine: network namespaces with their own addresses, links and host names. Needs root.

All traffic stays on this machine: the bridge between the hosts is in a namespace too, and no route leads out.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

_PREFIX = "dmlcsr"
_NETWORK = "10.77.0"
_CLONE_NEWNET = 0x40000000
# $0 host name, $1 the host's own folder for /tmp/ray, $2 a hosts file, then the command.
_ON_ITS_HOST = (
    'echo "$0" > /proc/sys/kernel/hostname && mkdir -p "$1" && mount --bind "$1" /tmp/ray && '
    'mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'
)


class Host(NamedTuple):
    """A host of a network."""

    name: str
    address: str
    namespace: str
    folder: Path

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """Starts a command with its own process ids and its own /tmp/ray.

        If the returned process is killed, all processes of the command are killed too. If this process dies, the
        returned process is killed.
        """
        isolated = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.namespace]
        isolated += ["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
        isolated += ["sh", "-c", _ON_ITS_HOST, self.name, str(self.folder / "ray"), str(self.folder.parent / "hosts")]
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                [*isolated, *command], env=dict(environment), stdout=log, stderr=log, start_new_session=True
            )

    def set_link(self, is_up: bool) -> None:
        """Disconnects or connects the host's network cable."""
        # At the other end of the cable, so that the host keeps its address and its routes.
        _run("ip", "-n", f"{_current()}-switch", "link", "set", self.name, "up" if is_up else "down")

    def slow_down(self, rate: str) -> None:
        """Limits the rate at which the host sends, for example to `2mbit` per second."""
        limit = ["rate", rate, "burst", "32kbit", "latency", "400ms"]
        _run("tc", "-n", self.namespace, "qdisc", "replace", "dev", "eth0", "root", "tbf", *limit)

    def speed_up(self) -> None:
        """Removes the limit of `slow_down`."""
        _run("tc", "-n", self.namespace, "qdisc", "del", "dev", "eth0", "root")

    def processes(self) -> list[psutil.Process]:
        """The processes that run on the host."""
        found = []
        for pid in _run("ip", "netns", "pids", self.namespace).split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found


@contextmanager
def network(folder: Path, names: Sequence[str]) -> Iterator[dict[str, Host]]:
    """Creates hosts with these names for a `with` block and moves this thread to the first one. Logs are in `folder`.

    Raises RuntimeError if this machine does not allow namespaces.
    """
    Path("/tmp/ray").mkdir(exist_ok=True)  # each host mounts its own folder here
    _remove_leftovers()
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        yield _make(folder, names)
    finally:
        _enter(home)
        os.close(home)
        _remove(_current())


def _make(folder: Path, names: Sequence[str]) -> dict[str, Host]:
    switch = f"{_current()}-switch"
    _run("ip", "netns", "add", switch)
    _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
    _run("ip", "-n", switch, "link", "set", "bridge", "up")
    hosts = {}
    for number, name in enumerate(names, start=1):
        host = Host(name, f"{_NETWORK}.{number}", f"{_current()}-{name}", folder / name)
        host.folder.mkdir(parents=True)
        _connect(host, switch)
        hosts[name] = host
    lines = [f"{host.address} {host.name}\n" for host in hosts.values()]
    (folder / "hosts").write_text("".join(["127.0.0.1 localhost\n", *lines]))
    with Path(f"/run/netns/{hosts[names[0]].namespace}").open() as entrance:
        _enter(entrance.fileno())
    return hosts


def _connect(host: Host, switch: str) -> None:
    """Connects a host to the switch by a cable."""
    _run("ip", "netns", "add", host.namespace)
    cable = ["link", "add", host.name, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns"]
    _run("ip", *cable, host.namespace)
    _run("ip", "-n", switch, "link", "set", host.name, "master", "bridge")
    _run("ip", "-n", switch, "link", "set", host.name, "up")
    _run("ip", "-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _run("ip", "-n", host.namespace, "link", "set", device, "up")
    # This route leads nowhere. Ray asks the kernel for the source address of a public target, and sends nothing.
    _run("ip", "-n", host.namespace, "route", "add", "default", "dev", "eth0")


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise RuntimeError(f"cannot enter a network namespace: {os.strerror(ctypes.get_errno())}")


def _current() -> str:
    """The prefix of the names of this process's namespaces."""
    return f"{_PREFIX}-{os.getpid()}"


def _remove_leftovers() -> None:
    """Removes namespaces of processes that were killed before they could remove them."""
    for line in _run("ip", "netns").splitlines():
        prefix, _, rest = line.partition("-")
        owner = rest.partition("-")[0]
        if prefix == _PREFIX and owner.isdecimal() and not psutil.pid_exists(int(owner)):
            _remove(f"{_PREFIX}-{owner}")


def _remove(prefix: str) -> None:
    """Kills the processes in the namespaces with this prefix, and removes the namespaces."""
    for line in _run("ip", "netns").splitlines():
        name = line.split()[0]
        if name.startswith(f"{prefix}-"):
            for pid in _run("ip", "netns", "pids", name).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _run("ip", "netns", "del", name)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
