"""One driver at a time owns an output: `<out>/owner.json` names it as long as it lives.

A driver succeeds a dead one by creating `<out>/owner-after-<id of the dead one>.json` exclusively: of several that try,
one does. From then on that record decides who the owner is, whatever a slow writer puts into `owner.json`.
"""

import hashlib
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipelines import storage
from pipelines.errors import OutputTakenError, UserError

logger = logging.getLogger(__name__)
OWNER = "owner.json"
PREFIX = "owner"
"""Begins the names of all files of this module."""
HEARTBEAT_SECONDS = 10.0
TAKEOVER_SECONDS = 60.0
"""A driver on another host counts as dead if its record has not changed for this long."""
STATUS_WAIT_SECONDS = 25.0
"""How long `status`, which decides nothing, waits for a heartbeat of a driver on another host."""
EXIT_SECONDS = 20.0
"""How long a driver whose output was taken over may take to end by itself."""


class Owner(NamedTuple):
    """A driver: where it runs, since when, and its last heartbeat (Unix time of its own clock)."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    host: str
    pid: int
    process_start: str
    started_at: float
    heartbeat: float

    @property
    def on_this_host(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def process_alive(self) -> bool:
        """Whether its process lives; says something only on its own host."""
        return self.process_start == _process_start(self.pid)


_OWNER = TypeAdapter(Owner, config=ConfigDict(strict=True))


def _process_start(pid: int) -> str:
    """Start time of a process in clock ticks since boot, "" if it is not alive. Process ids are used again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    is_dead = fields[0] in "ZX"  # killed, and its parent has not looked yet
    return "" if is_dead else fields[19]


@contextmanager
def ownership(out: str) -> Iterator[None]:
    """Owns the output for the time of a `with` block.

    If another driver takes it over meanwhile (this one was cut off from the storage, or asleep, for longer than
    TAKEOVER_SECONDS), this process ends. Raises OutputTakenError, naming the other driver, if a live one owns it.
    """
    now = time.time()
    me = Owner(uuid.uuid4().hex, socket.gethostname(), os.getpid(), _process_start(os.getpid()), now, now)
    succeeded = _take(out, me)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(out, me, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if _is_owner(out, me):
            for uri in (storage.join(out, OWNER), *succeeded):
                storage.delete(uri)


def _take(out: str, me: Owner) -> list[str]:
    """Makes `me` the owner; returns the URIs of the records by which owners succeeded dead ones.

    Raises OutputTakenError if another driver owns the output, or was faster.
    """
    owners = _succession(out)
    if owners and not _is_dead(out, owners[-1], TAKEOVER_SECONDS):
        other = owners[-1]
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(other.started_at))
        raise OutputTakenError(
            f"{out} is being written by process {other.pid} on {other.host} since {since}; wait for it, or end it first"
        )
    succeeded = [_successor_uri(out, owner) for owner in owners]
    uri = succeeded[-1] if owners else storage.join(out, OWNER)
    # A connection may be cut before the answer: then the record was written, and the repetition finds it there.
    storage.create_bytes(uri, _as_bytes(me))
    if not _is_owner(out, me):
        if (found := _read(uri)) is not None and found.id == me.id:
            storage.delete(uri)  # the dead owner's output was taken, finished and left meanwhile
        raise OutputTakenError(f"{out} has just been taken by another process; wait for it, or end it first")
    if owners:
        _write(out, me)
    return succeeded


def _succession(out: str) -> list[Owner]:
    """The owner that `owner.json` names and those who succeeded it, one the other; the last one owns the output."""
    owners: list[Owner] = []
    found = _read(storage.join(out, OWNER))
    while found is not None and found.id not in {owner.id for owner in owners}:
        owners.append(found)
        found = _read(_successor_uri(out, found))
    return owners


def _effective_owner(out: str) -> Owner | None:
    owners = _succession(out)
    return owners[-1] if owners else None


def _successor_uri(out: str, owner: Owner) -> str:
    return storage.join(out, f"{PREFIX}-after-{owner.id}.json")


def _is_owner(out: str, me: Owner) -> bool:
    owner = _effective_owner(out)
    return owner is not None and owner.id == me.id


def _is_dead(out: str, other: Owner, seconds: float) -> bool:
    """Whether a driver is dead.

    On this host the process table decides. A driver on another host counts as dead if its record does not change for
    `seconds`; its timestamps are not compared, because clocks differ.
    """
    if other.on_this_host:
        return not other.process_alive
    logger.info(
        "%s is owned by process %d on %s; waiting up to %.0f s for a sign of life", out, other.pid, other.host, seconds
    )
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(seconds / 60)
        now = _effective_owner(out)
        if now != other:
            return now is None
    return True


def _beat(out: str, me: Owner, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        with suppress(UserError):  # storage that is away says so elsewhere
            if not _is_owner(out, me):
                _end_process(out, ended)
                return
            _write(out, me._replace(heartbeat=time.time()))


def _end_process(out: str, ended: threading.Event) -> None:
    """Ends this process, whatever its signal handlers: two drivers must not write to one output."""
    logger.error("%s has been taken over by another driver; this one ends", out)
    # SIGINT is ignored in processes that a script starts with `&`, and under nohup: interrupting does nothing there.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # wakes it, unlike `interrupt_main`
        if ended.wait(EXIT_SECONDS):
            return
    logging.shutdown()
    os._exit(1)


def _as_bytes(owner: Owner) -> bytes:
    return json.dumps(owner._asdict()).encode()


def _write(out: str, owner: Owner) -> None:
    storage.write_bytes(storage.join(out, OWNER), _as_bytes(owner))


def _read(uri: str) -> Owner | None:
    if not storage.exists(uri):
        return None
    try:
        return _OWNER.validate_python(storage.read_json(uri))
    except (ValidationError, UserError):
        logger.warning("%s is damaged; its owner counts as dead", uri)
        # Every driver that reads these bytes gets the same id, so one of them succeeds it. No process has number 0.
        return Owner(hashlib.sha256(uri.encode()).hexdigest()[:32], socket.gethostname(), 0, "damaged", 0.0, 0.0)


def current_owner(out: str) -> Owner | None:
    """The live driver of an output, or None. One on another host is given time for a heartbeat."""
    owner = _effective_owner(out)
    return None if owner is None or _is_dead(out, owner, STATUS_WAIT_SECONDS) else owner


def last_heartbeat(out: str) -> float:
    """Time of the owner's last heartbeat by its own clock; 0 if there is no owner."""
    owner = _effective_owner(out)
    return owner.heartbeat if owner else 0.0
