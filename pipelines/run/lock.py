"""One driver at a time owns a run: `<run>/owner.json` names it as long as it lives."""

import _thread
import json
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

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipelines import storage
from pipelines.errors import OutputTakenError, UserError

logger = logging.getLogger(__name__)
OWNER = "owner.json"
BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A driver on another machine that has not been heard of for so long is dead."""
LOOK_SECONDS = 25.0
"""So long `status`, which decides nothing, looks whether a driver on another machine is heard of."""


class Owner(NamedTuple):
    """A driver: where it runs, since when, and when it was last heard of (Unix time of its own clock)."""

    id: str
    host: str
    pid: int
    born: str
    since: float
    beat: float

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_process(self) -> bool:
        """Whether its process lives, if that is one of this machine."""
        return self.born == _born(self.pid)


_OWNER = TypeAdapter(Owner, config=ConfigDict(strict=True))


def _born(pid: int) -> str:
    """When the process began, in ticks since the machine did; empty where there is none. Numbers are used again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    is_dead = fields[0] in "ZX"  # killed, and its parent has not looked yet
    return "" if is_dead else fields[19]


@contextmanager
def ownership(run: str) -> Iterator[None]:
    """Owns the run for the time of a `with` block.

    Raises OutputTakenError, with its identity, where another live driver does.
    """
    uri = storage.join(run, OWNER)
    now = time.time()
    me = Owner(uuid.uuid4().hex, socket.gethostname(), os.getpid(), _born(os.getpid()), now, now)
    _take(uri, run, me)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(uri, me, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if _is_mine(uri, me):
            storage.delete(uri)


def _take(uri: str, run: str, me: Owner) -> None:
    """Writes the owner's record; of several drivers that try, one does."""
    other = _read(uri)
    if other is not None and not _is_dead(uri, other, STALE_SECONDS):
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(other.since))
        raise OutputTakenError(
            f"{run} is being run by process {other.pid} on {other.host} since {since}; wait for it, or end it first"
        )
    if other == _read(uri):
        storage.delete(uri)
    # A connection that was cut before the answer: the record was written, and its repetition finds it there.
    if not storage.create_bytes(uri, json.dumps(me._asdict()).encode()) and not _is_mine(uri, me):
        raise OutputTakenError(f"{run} has just been started by another process; wait for it, or end it first")


def _is_dead(uri: str, other: Owner, seconds: float) -> bool:
    """Clocks of two machines may differ: a driver elsewhere is dead where its record stops changing for so long."""
    if other.is_here:
        return not other.is_process
    logger.info("%s belongs to a driver on %s; looking whether it is alive", uri, other.host)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(seconds / 60)
        now = _read(uri)
        if now != other:
            return now is None
    return True


def _beat(uri: str, me: Owner, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(UserError):  # storage that is away says so elsewhere
            if not _is_mine(uri, me):
                # Cut off from the storage for longer than STALE_SECONDS, or asleep. Two must not write to one run.
                logger.error("%s has been taken over by another driver; this one ends", uri)
                _thread.interrupt_main()
                return
            storage.write_json(uri, me._replace(beat=time.time())._asdict())


def _is_mine(uri: str, me: Owner) -> bool:
    found = _read(uri)
    return found is not None and found.id == me.id


def _read(uri: str) -> Owner | None:
    if not storage.exists(uri):
        return None
    try:
        return _OWNER.validate_python(storage.read_json(uri))
    except (ValidationError, UserError):
        logger.warning("%s is damaged; it is written anew", uri)
        return None


def current(run: str) -> Owner | None:
    """The live driver of a run, or None. One elsewhere is given time to show itself."""
    uri = storage.join(run, OWNER)
    owner = _read(uri)
    return None if owner is None or _is_dead(uri, owner, LOOK_SECONDS) else owner


def last_beat(run: str) -> float:
    """When the owner was last heard of, by its own clock; 0 where there is none."""
    owner = _read(storage.join(run, OWNER))
    return owner.beat if owner else 0.0
