"""The local stack: a real S3 server and a Ray head on this machine, until they are taken down.

python -m cluster.local up|down|status [--folder .stack] [--num-cpus N]

`up` writes a file of variables to source; after it `ray job submit` and `python ray_job.py` use the stack. Objects
stay in the folder from one `up` to the next. Loopback only; ports are free ones.
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
"""Logical ones: a training worker and its decoding share cores."""
_STATE, _ENV = "stack.json", "env"


class Service(NamedTuple):
    """A running process, that no later one with the same id is taken for, and the variables that reach it."""

    pid: int
    created: float
    """Seconds since the epoch."""
    environment: Mapping[str, str]

    @property
    def process(self) -> psutil.Process | None:
        """None where it has ended."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


class Stack:
    """What runs for a folder. Its methods can be repeated; of two at once one waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.env_file = self.folder / _ENV

    @property
    def environment(self) -> dict[str, str]:
        """Variables for drivers and submitters."""
        found: dict[str, str] = {}
        for service in self.services().values():
            found.update(service.environment)
        return found

    def services(self) -> dict[str, Service]:
        """`store` and `head`, as far as they were ever started and not taken down."""
        state = self.folder / _STATE
        found: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {}
        return {name: Service(*fields) for name, fields in found.items()}

    def up(self, num_cpus: int = DEFAULT_CPUS) -> bool:
        """Starts what does not run; False where all did. Raises RuntimeError where a part does not come up."""
        with self._locked():
            services = self.services()
            missing = [name for name in ("store", "head") if name not in services or not services[name].process]
            if "store" in missing:
                services["store"] = self._start_store(services.get("store"))
                self._save(services)
                missing = ["store", "head"]  # the head's jobs know the variables of the server it started with
            if "head" in missing:
                self._stop_head(services.pop("head", None))
                services["head"] = self._start_head(num_cpus, services["store"])
                self._save(services)
            return bool(missing)

    def down(self) -> bool:
        """Ends what `up` started, and nothing else; False where nothing ran. Objects and credentials stay."""
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
        # `ray job submit` reads the one address before the other, drivers read only the other.
        variables = head.driver_environment | {ray_settings.API_SERVER: head.dashboard}
        del variables["PATH"]  # what is sourced later would hide what a user has put there since
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
    """For its owner only, whole or not at all: it holds credentials."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600)
    scratch.write_text(text)
    scratch.replace(path)


def tell(stack: Stack) -> bool:
    """Prints where the stack stands; True where all of it runs."""
    services = stack.services()
    places = {"store": "AWS_ENDPOINT_URL", "head": ray_settings.API_SERVER}
    running = {name: service for name in places if (service := services.get(name)) and service.process}
    for name, variable in places.items():
        where = f"{running[name].environment[variable]} (pid {running[name].pid})" if name in running else "not running"
        print(f"{name:6} {where}")
    if len(running) == len(places):
        print(f"\nobjects: {stack.folder / 'objects'}, bucket s3://{BUCKET}\nuse it:  . {stack.env_file}")
    return len(running) == len(places)


def main() -> int:
    """0 done, 1 where `status` finds a part that does not run."""
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
    return 0 if tell(stack) else 1


if __name__ == "__main__":
    sys.exit(main())
