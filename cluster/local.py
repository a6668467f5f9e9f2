"""The local stack: a real S3 server and a Ray head on this machine.

python -m cluster.local up|down|status [--folder .stack] [--num-cpus N]

`up` starts both and writes a file of environment variables. After a shell has sourced this file, `ray job submit` and
`python ray_job.py` use the stack. `down` ends both. The stored objects stay in the folder. The servers listen on
loopback only, on free ports.
"""

import argparse
import fcntl
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from cluster.head import Head, start_head, stop_head
from cluster.object_store import ObjectStore, client
from pipelines.run import ray_settings

BUCKET = "dmlcsr"
DEFAULT_CPUS = max(4, os.cpu_count() or 1)
"""Number of CPUs that Ray counts. It may exceed the cores: a training worker and its decoding tasks share them."""
_STATE, _ENV = "stack.json", "env"


class Service(NamedTuple):
    """A process that was started, identified by pid and creation time, because pids are reused."""

    pid: int
    created: float
    """Creation time in seconds since the epoch."""
    environment: Mapping[str, str]
    """Environment variables that clients of the service need."""

    @property
    def process(self) -> psutil.Process | None:
        """The process, or None if it has ended."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


class Stack:
    """The services of a folder. Repeated calls are safe, and a lock makes simultaneous calls wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.env_file = self.folder / _ENV

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables for drivers and `ray job submit`."""
        found: dict[str, str] = {}
        for service in self.services().values():
            found.update(service.environment)
        return found

    def services(self) -> dict[str, Service]:
        """The services `store` and `head` that were started and not taken down; they may have died since."""
        state = self.folder / _STATE
        found: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {}
        return {name: Service(*fields) for name, fields in found.items()}

    def up(self, num_cpus: int = DEFAULT_CPUS) -> bool:
        """Starts the services that do not run. Returns False if all were running already.

        Raises RuntimeError if a service does not start.
        """
        with self._locked():
            services = self.services()
            missing = [name for name in ("store", "head") if name not in services or not services[name].process]
            if "store" in missing:
                services["store"] = self._start_store(services.get("store"))
                self._save(services)
                missing = ["store", "head"]  # jobs have the variables of the server that the head was started with
            if "head" in missing:
                self._stop_head(services.pop("head", None))
                services["head"] = self._start_head(num_cpus, services["store"])
                self._save(services)
            return bool(missing)

    def down(self) -> bool:
        """Ends the services that `up` started; objects and credentials stay. Returns False if nothing was running."""
        with self._locked():
            services = self.services()
            head, store = services.get("head"), services.get("store")
            running = [service for service in (head, store) if service is not None and service.process]
            self._stop_head(head)
            if store is not None and (process := store.process):
                process.terminate()
                process.wait(30)
            self._save({"store": store} if store else {})
            self.env_file.unlink(missing_ok=True)
            return bool(running)

    def _start_store(self, before: Service | None) -> Service:
        store = ObjectStore(self.folder / "objects", before.environment if before else {})
        try:
            store.start()
            bucket = client(store.environment)
            if not bucket.exists(BUCKET):
                bucket.mkdir(BUCKET)
        except BaseException:
            store.stop()
            raise
        assert store.process is not None
        return _service(store.process.pid, store.environment)

    def _start_head(self, num_cpus: int, store: Service) -> Service:
        head, process = start_head(self.folder / "ray", num_cpus, store.environment)
        # `ray job submit` prefers RAY_API_SERVER_ADDRESS to RAY_ADDRESS; drivers read only RAY_ADDRESS.
        variables = head.driver_environment | {ray_settings.API_SERVER: head.dashboard}
        del variables["PATH"]  # sourcing the file later would discard the user's own changes of PATH
        return _service(process.pid, variables)

    def _stop_head(self, service: Service | None) -> None:
        if service is not None and (process := service.process):
            environment = service.environment
            dashboard, address = environment[ray_settings.API_SERVER], environment[ray_settings.ADDRESS]
            stop_head(Head(dashboard, environment, address), process)

    def _save(self, services: Mapping[str, Service]) -> None:
        _write_private(self.folder / _STATE, json.dumps(services))
        variables = {name: value for service in services.values() for name, value in service.environment.items()}
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
        _write_private(self.env_file, "".join(lines))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _service(pid: int, environment: Mapping[str, str]) -> Service:
    return Service(pid, psutil.Process(pid).create_time(), dict(environment))


def _write_private(path: Path, text: str) -> None:
    """Writes a file with credentials: readable for its owner only, and replaced in one step."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600)
    scratch.write_text(text)
    scratch.replace(path)


def print_status(stack: Stack) -> bool:
    """Prints the state of each service. Returns True if all are running."""
    services = stack.services()
    addresses = {"store": "AWS_ENDPOINT_URL", "head": ray_settings.API_SERVER}
    running = {name: service for name in addresses if (service := services.get(name)) and service.process}
    for name, variable in addresses.items():
        where = f"{running[name].environment[variable]} (pid {running[name].pid})" if name in running else "not running"
        print(f"{name:6} {where}")
    if len(running) == len(addresses):
        print(f"\nobjects: {stack.folder / 'objects'}, bucket s3://{BUCKET}\nuse it:  . {stack.env_file}")
    return len(running) == len(addresses)


def main() -> int:
    """Runs one action. Returns the exit code: 0 for success, 1 if a service is not running after `up` or `status`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["up", "down", "status"])
    parser.add_argument("--folder", type=Path, default=Path(".stack"))
    parser.add_argument("--num-cpus", type=int, default=DEFAULT_CPUS)
    arguments = parser.parse_args()
    stack = Stack(arguments.folder)
    if arguments.action == "down":
        print("the stack is down" if stack.down() else "nothing was running")
        return 0
    if arguments.action == "up":
        print("started" if stack.up(arguments.num_cpus) else "already running", end="\n\n")
    return 0 if print_status(stack) else 1


if __name__ == "__main__":
    sys.exit(main())
