"""Logging to the console: this project's log lines, and one progress line during long work.

A terminal rewrites the progress line in place; any other stream gets one every PLAIN_SECONDS. By default Ray prints the
output of every process of the cluster. Without `--verbose` only log lines of this project's workers are shown.
"""

import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pipelines.run import ray_internals

_MARK, _PROGRESS_MARK = "dmlcsr| ", "dmlcsr~ "
"""Prefixes that mark a worker's log lines and progress lines in its output, so that the driver can find them."""
PLAIN_SECONDS = 10.0
"""Shortest time between two progress lines on a stream that is not a terminal."""
PROGRESS_RECORD = {"progress": True}
"""The `extra` argument that makes a log record a progress line."""
LOG_LEVEL = "DMLCSR_LOG_LEVEL"
"""Environment variable with the lowest level of log lines that are shown. Processes of a cluster inherit it."""
NATIVE_BYTES = 64 << 10
"""At least this many last bytes of native code's output are kept."""
_NATIVE_SECONDS = 5.0
"""Time between two cuts of the file with native code's output."""
logger = logging.getLogger(__name__)


class Console(logging.StreamHandler[TextIO]):
    """Writes log records to a terminal or a plain stream."""

    def __init__(self, stream: TextIO, verbose: bool) -> None:
        super().__init__(stream)
        self.verbose = verbose
        self.is_terminal = stream.isatty()
        self.line = ""
        self.last_logged = -PLAIN_SECONDS
        self.setFormatter(logging.Formatter("%(asctime)s %(origin)s%(message)s", "%H:%M:%S"))
        self.addFilter(add_origin)

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if not getattr(record, "progress", False):
            self._write(f"{text}\n{self.line}")
        elif self.is_terminal:
            self.line = text[: os.get_terminal_size(self.stream.fileno()).columns - 1]
            self._write(self.line)
        elif time.monotonic() - self.last_logged >= PLAIN_SECONDS:
            self.last_logged = time.monotonic()
            self._write(f"{text}\n")

    def end_progress(self) -> None:
        """Removes the progress line from the terminal."""
        if self.line:
            self.line = ""
            self._write("")

    def _write(self, text: str) -> None:
        self.stream.write(f"\r\x1b[K{text}" if self.is_terminal else text)
        self.stream.flush()


_process_name = ""


def name_process(name: str) -> None:
    """Puts `[name]` before all log lines of this process. It distinguishes the lines of trials that run in parallel."""
    global _process_name
    _process_name = name


def add_origin(record: logging.LogRecord) -> bool:
    """Sets `origin`, the name of this process, on a record that has none yet. Returns True, so no record is dropped."""
    if not hasattr(record, "origin"):
        record.origin = f"[{_process_name}] " if _process_name else ""
    return True


class _Marked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        mark = _PROGRESS_MARK if getattr(record, "progress", False) else _MARK
        return mark + super().format(record).replace("\n", f"\n{mark}")


@contextmanager
def logging_to_console(verbose: bool) -> Iterator[None]:
    """Sends log lines to standard error during a `with` block: all of this project, only warnings of other packages."""
    console = Console(sys.stderr, verbose)
    level = logging.getLogger("pipelines").level
    _log_to(console)
    try:
        yield
    finally:
        console.end_progress()
        logging.getLogger().removeHandler(console)
        logging.getLogger("pipelines").setLevel(level)


def forward_logs_to_driver(name: str = "") -> None:
    """Sends the log lines of this process to the console of the driver, with `name` before each.

    Does nothing outside of Ray's workers. Every actor, task and training worker calls it before anything else, so that
    the warning about a storage outage is shown too.
    """
    if not ray_internals.is_worker():
        return
    name_process(name)
    if any(isinstance(handler.formatter, _Marked) for handler in logging.getLogger().handlers):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Marked("%(origin)s%(message)s"))
    handler.addFilter(add_origin)
    _log_to(handler)


def _log_to(handler: logging.Handler) -> None:
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = logging.getLevelNamesMapping().get(os.environ.get(LOG_LEVEL, "").upper(), logging.INFO)
    logging.getLogger("pipelines").setLevel(level)
    # Ray Data logs several lines, at every level, for each execution of a data set.
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def show_worker_logs() -> None:
    """Shows only this project's log lines from Ray workers; with `--verbose` Ray's handler stays and prints everything.

    Must be called after Ray is started. Does nothing in a process without a console.
    """
    console = next((handler for handler in logging.getLogger().handlers if isinstance(handler, Console)), None)
    if console is not None and not console.verbose:
        ray_internals.show_worker_output(_show)


def _show(batch: dict[str, Any]) -> None:
    """Logs the marked lines of one process. That process has already dropped the lines below the chosen level."""
    level = max(logging.INFO, logger.getEffectiveLevel())
    for line in batch["lines"]:
        if line.startswith(_PROGRESS_MARK):
            logger.log(level, "%s", line.removeprefix(_PROGRESS_MARK), extra={"origin": "", **PROGRESS_RECORD})
        elif line.startswith(_MARK):
            logger.log(level, "%s", line.removeprefix(_MARK), extra={"origin": ""})


@contextmanager
def native_output_kept() -> Iterator[None]:
    """Redirects file descriptor 2 to a temporary file during a `with` block, to hide Ray's C++ messages.

    `sys.stderr` still writes to the console. The file is deleted if the block ends without an error, or by SystemExit
    with 0 (done) or 2 (wrong usage). Otherwise its name is printed. If native code aborts the process, the name is not
    printed, but the file remains.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    handle, name = tempfile.mkstemp(prefix=f"dmlcsr-{os.getpid()}-", suffix=".stderr")
    os.close(handle)
    file = os.open(name, os.O_RDWR | os.O_APPEND)
    os.dup2(file, 2)
    threading.Thread(target=_bound, args=(file,), daemon=True).start()
    code: object = 1
    try:
        yield
        code = 0
    except SystemExit as end:
        code = end.code
        raise
    finally:
        if code in (0, 2) or not os.fstat(file).st_size:
            Path(name).unlink()
        else:
            print(f"the last output of native code is in {name}", file=sys.stderr)


def _bound(file: int) -> None:
    """Shortens the file again and again until the process ends. Append mode puts the next output at its new end."""
    while True:
        time.sleep(_NATIVE_SECONDS)
        keep_tail(file, NATIVE_BYTES)


def keep_tail(file: int, num_bytes: int) -> None:
    """Cuts a file of more than twice `num_bytes` bytes to its last `num_bytes`. Concurrent output may be lost."""
    size = os.fstat(file).st_size
    if size > 2 * num_bytes:
        tail = os.pread(file, num_bytes, size - num_bytes)
        os.ftruncate(file, 0)
        os.write(file, tail)
