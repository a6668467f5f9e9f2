"""One driver at a time owns a run: `<run>/owner.json` names it as long as it lives."""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pipelines import storage
from pipelines.errors import OutputTakenError, UserError

logger = logging.getLogger(__name__)
OWNER = "owner.json"
BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A driver on another machine that has not been heard of for so long is dead."""


class Owner(NamedTuple):
    """A driver: where it runs, since when, and when it was last heard of (Unix time)."""

    id: str
    host: str
    pid: int
    born: str
    since: float
    beat: float

    def is_alive(self) -> bool:
        """On this machine its process is looked at; elsewhere its last beat counts."""
        if self.host == socket.gethostname():
            return self.born == _born(self.pid)
        return time.time() - self.beat < STALE_SECONDS


def _born(pid: int) -> str:
    """When the process began, in ticks since the machine did; empty where there is none. Numbers are used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


@contextmanager
def ownership(run: str) -> Iterator[None]:
    """Owns the run for the time of a `with` block.

    Raises OutputTakenError, with its identity, where another live driver does.
    """
    uri = storage.join(run, OWNER)
    other = current(run)
    if other is not None:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(other.since))
        raise OutputTakenError(
            f"{run} is being run by process {other.pid} on {other.host} since {since}; wait for it, or end it first"
        )
    now = time.time()
    me = Owner(uuid.uuid4().hex, socket.gethostname(), os.getpid(), _born(os.getpid()), now, now)
    storage.write_json(uri, me._asdict())
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(uri, me, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        storage.delete(uri)


def _beat(uri: str, me: Owner, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(UserError):  # storage that is away says so elsewhere
            storage.write_json(uri, me._replace(beat=time.time())._asdict())


def _read(uri: str) -> Owner | None:
    if not storage.exists(uri):
        return None
    try:
        return Owner(**storage.read_json(uri))
    except (TypeError, UserError):
        logger.warning("%s is damaged; it is written anew", uri)
        return None


def current(run: str) -> Owner | None:
    """The live driver of a run, or None."""
    owner = _read(storage.join(run, OWNER))
    return owner if owner is not None and owner.is_alive() else None


def last_beat(run: str) -> float:
    """When the owner was last heard of (Unix time); 0 where there is none."""
    owner = _read(storage.join(run, OWNER))
    return owner.beat if owner else 0.0
