"""One driver at a time owns an output: `<out>/owner.json` names it while it lives.

A driver succeeds a dead one by creating `<out>/owner-after-<id of the dead one>.json`. The file is created exclusively:
if several drivers try, one succeeds. From then on this file decides who the owner is, even if a slow writer overwrites
`owner.json`.
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
"""The names of all files of this module begin with it."""
HEARTBEAT_SECONDS = 10.0
"""Time between two heartbeats of a driver."""
TAKEOVER_SECONDS = 60.0
"""A driver on another host counts as dead if its record has not changed for this time: six heartbeats."""
STATUS_WAIT_SECONDS = 25.0
"""Longest wait of `status` for a heartbeat of a driver on another host. It may be short: `status` only reports."""
EXIT_SECONDS = 20.0
"""Time that a driver gets to end by itself after another one has taken over its output; then it is ended at once."""


class Owner(NamedTuple):
    """A driver: its host and process, its start and its last heartbeat (both Unix times of its own clock).

    `process_table` identifies the table that `pid` is a number of; "" in records of release 0.1.
    """

    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    host: str
    pid: int
    process_start: str
    started_at: float
    heartbeat: float
    process_table: str = ""

    @property
    def in_this_process_table(self) -> bool:
        return self.process_table == _process_table() != ""

    @property
    def process_alive(self) -> bool:
        """True if its process is alive. Only valid if `in_this_process_table`."""
        return self.process_start == _process_start(self.pid)


_OWNER = TypeAdapter(Owner, config=ConfigDict(strict=True))


def _process_table() -> str:
    """Identifies the process table of this process: the boot of its machine, and its PID namespace.

    Host names do not: containers may share one (`docker run --network host`), and so may cloned machines. "" if it is
    not known.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """The start time of a process in clock ticks since boot, "" if it is not alive. Needed because pids are reused."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    is_dead = fields[0] in "ZX"  # zombie: killed, and its parent has not waited for it yet
    return "" if is_dead else fields[19]


@contextmanager
def ownership(out: str) -> Iterator[None]:
    """Owns the output during a `with` block.

    This process ends if another driver takes the output over in the meantime. That happens if this process could not
    reach the storage, or was suspended, for longer than TAKEOVER_SECONDS. Raises OutputTakenError, which names the
    other driver, if a live one owns the output.
    """
    now = time.time()
    pid = os.getpid()
    me = Owner(uuid.uuid4().hex, socket.gethostname(), pid, _process_start(pid), now, now, _process_table())
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
    """Makes `me` the owner. Returns the URIs of all `owner-after-*.json` by which drivers succeeded dead ones.

    Raises OutputTakenError if another driver owns the output or takes it first.
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
    # The return value is ignored: if the connection breaks after the write, the retry finds our own record.
    storage.create_bytes(uri, _as_bytes(me))
    if uri.startswith("s3://") and storage.create_bytes(uri, _as_bytes(me)):
        logger.warning(
            "the object store ignores If-None-Match: it cannot keep two commands from writing to %s at the same time, "
            "so start only one",
            out,
        )
    if not _is_owner(out, me):
        if (found := _read(uri)) is not None and found.id == me.id:
            storage.delete(uri)  # meanwhile another driver took the dead owner's output and finished it
        raise OutputTakenError(f"{out} has just been taken by another process; wait for it, or end it first")
    if owners:
        _write(out, me)
    return succeeded


def _succession(out: str) -> list[Owner]:
    """The owner in `owner.json`, its successor, the successor of that one, and so on. The last one owns the output."""
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
    """Returns True if a driver is dead.

    If it is in the process table of this process, that decides. A driver elsewhere counts as dead if its record does
    not change for `seconds`; its timestamps are not compared, because clocks differ.
    """
    if other.in_this_process_table:
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
        with suppress(UserError):  # the next heartbeat tries again
            if not _is_owner(out, me):
                _end_process(out, ended)
                return
            _write(out, me._replace(heartbeat=time.time()))


def _end_process(out: str, ended: threading.Event) -> None:
    """Ends this process, whatever its signal handlers do, because two drivers must not write to one output."""
    logger.error("%s has been taken over by another driver; this one ends", out)
    # Processes that a script starts with `&` or nohup ignore SIGINT. There an interrupt would have no effect.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Unlike `interrupt_main`, this also wakes a blocked thread.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if ended.wait(EXIT_SECONDS):
            return
    logging.shutdown()
    os._exit(1)


def _as_bytes(owner: Owner) -> bytes:
    return json.dumps(owner._asdict()).encode()


def _write(out: str, owner: Owner) -> None:
    storage.write_bytes(storage.join(out, OWNER), _as_bytes(owner))


def _read(uri: str) -> Owner | None:
    data = storage.find_bytes(uri)  # if the storage fails, the owner is not known to be damaged
    if data is None:
        return None
    try:
        return _OWNER.validate_python(storage.parse_json(uri, data))
    except (ValidationError, UserError):
        logger.warning("%s is damaged; its owner counts as dead", uri)
        # All drivers derive the same id from `uri`, so only one of them succeeds this owner. No process has pid 0.
        name, host = hashlib.sha256(uri.encode()).hexdigest()[:32], socket.gethostname()
        return Owner(name, host, 0, "damaged", 0.0, 0.0, _process_table())


def current_owner(out: str) -> Owner | None:
    """The live driver of an output, or None. Waits up to STATUS_WAIT_SECONDS for a driver on another host."""
    owner = _effective_owner(out)
    return None if owner is None or _is_dead(out, owner, STATUS_WAIT_SECONDS) else owner


def last_heartbeat(out: str) -> float:
    """The Unix time of the owner's last heartbeat by its own clock; 0 if there is no owner."""
    owner = _effective_owner(out)
    return owner.heartbeat if owner else 0.0
