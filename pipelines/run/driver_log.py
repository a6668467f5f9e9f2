"""`<run>/logs/driver-<start>-<process>.log`: the lines of a command, beside its output, one file per attempt."""

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
"""Between two writes: object storage cannot append, so the file is written whole."""
MAX_BYTES = 1 << 20
"""The last lines, so many bytes of them, are kept."""
END_SECONDS = 5.0
"""How long a command waits in the end for the last write."""


class DriverLog(logging.Handler):
    """Keeps the last lines, but for those of progress, and writes them to storage in a thread of its own."""

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
        """Writes what has changed every so many seconds, and once more after the end."""
        written, is_over = b"", False
        while not is_over:
            is_over = ended.wait(seconds)
            with self.guard:
                now = b"".join(self.lines)
            if now != written:
                with suppress(Exception):  # whatever it is, the command goes on without its log
                    storage.write_bytes(self.uri, now)
                    written = now


@contextmanager
def driver_log(out: str, seconds: float = SECONDS) -> Iterator[None]:
    """Keeps the log lines of a `with` block in `<out>/logs`. `out` is this command's already."""
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
