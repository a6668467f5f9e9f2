"""`<run>/logs/driver-<start>-<process>.log`: the log lines of a command, stored in its output, one file per attempt."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipelines import STARTED, storage
from pipelines.run import console
from pipelines.run.paths import RunPaths

SECONDS = 30.0
"""Time between two writes. Each one rewrites the whole file, because object storage cannot append."""
MAX_BYTES = 1 << 20
"""Only the last lines, up to this size in total, are kept."""
END_SECONDS = 5.0
"""Longest wait for the last write when a command ends."""


class DriverLog(logging.Handler):
    """Keeps the last log lines except progress lines; a thread writes them to storage."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.uri = uri
        self.lines: deque[bytes] = deque()
        self.num_bytes = 0
        self.guard = threading.Lock()
        self.setFormatter(logging.Formatter("%(asctime)s %(origin)s%(message)s"))
        self.addFilter(console.add_origin)

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "progress", False):
            self.add(self.format(record))

    def add(self, text: str) -> None:
        line = text.encode(errors="replace") + b"\n"
        with self.guard:
            self.lines.append(line)
            self.num_bytes += len(line)
            while self.num_bytes > MAX_BYTES and len(self.lines) > 1:
                self.num_bytes -= len(self.lines.popleft())

    def write_until(self, ended: threading.Event, seconds: float) -> None:
        """Writes the lines every `seconds` if they have changed, and once more after `ended` is set."""
        written, is_over = b"", False
        while not is_over:
            is_over = ended.wait(seconds)
            with self.guard:
                now = b"".join(self.lines)
            if now != written:
                with suppress(Exception):  # no error may stop the command; it continues without its log
                    storage.write_bytes(self.uri, now)
                    written = now


@contextmanager
def driver_log(out: str, seconds: float = SECONDS) -> Iterator[None]:
    """Writes the log lines of a `with` block to `<out>/logs`. The command must own `out`."""
    start = time.strftime("%Y%m%d-%H%M%S", time.gmtime(STARTED))
    log = DriverLog(storage.join(RunPaths(out).logs, f"driver-{start}-{os.getpid()}.log"))
    ended = threading.Event()
    thread = threading.Thread(target=log.write_until, args=(ended, seconds), daemon=True)
    logging.getLogger().addHandler(log)
    thread.start()
    try:
        yield
    except BaseException as error:
        log.add(f"ended by {type(error).__name__}: {error}")
        raise
    finally:
        logging.getLogger().removeHandler(log)
        ended.set()
        thread.join(END_SECONDS)
