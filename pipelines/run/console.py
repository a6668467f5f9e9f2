"""What people see while a command works: this project's lines, and of a long piece of work one line of progress.

On a terminal the line of progress is rewritten in place; elsewhere it is printed now and then. Ray prints everything
that any process of the cluster prints: without `--verbose` only what this project's workers say comes through.
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
"""Begin the lines of workers that are for people: those that stay, and progress."""
PLAIN_SECONDS = 10.0
"""Between two lines of progress where no terminal rewrites them."""
PROGRESS_RECORD = {"progress": True}
"""The `extra` of a log record that tells progress."""
LOG_LEVEL = "DMLCSR_LOG_LEVEL"
"""The variable that holds the lowest level of this project's lines; processes of a cluster inherit it."""
NATIVE_BYTES = 64 << 10
"""Number of bytes of native code's output that are kept at least."""
_NATIVE_SECONDS = 5.0
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
        """Nothing is left of the line of progress."""
        if self.line:
            self.line = ""
            self._write("")

    def _write(self, text: str) -> None:
        self.stream.write(f"\r\x1b[K{text}" if self.is_terminal else text)
        self.stream.flush()


_process_name = ""


def name_process(name: str) -> None:
    """Puts `[name]` before all lines of this process, so that those of trials at work at once can be told apart."""
    global _process_name
    _process_name = name


def add_origin(record: logging.LogRecord) -> bool:
    """Filters nothing; gives a record its `origin`, the name of this process. Forwarded lines have theirs already."""
    if not hasattr(record, "origin"):
        record.origin = f"[{_process_name}] " if _process_name else ""
    return True


class _Marked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        mark = _PROGRESS_MARK if getattr(record, "progress", False) else _MARK
        return mark + super().format(record).replace("\n", f"\n{mark}")


@contextmanager
def logging_to_console(verbose: bool) -> Iterator[None]:
    """Within a `with` block log lines go to standard error: this project's, and only warnings of all others."""
    console = Console(sys.stderr, verbose)
    _log_to(console)
    try:
        yield
    finally:
        console.end_progress()
        logging.getLogger().removeHandler(console)


def forward_logs_to_driver(name: str = "") -> None:
    """Sends the log lines of this process, which get its name, to the console of the driver.

    Does nothing outside of Ray's workers. Every actor, every task and every training worker calls it first, so that an
    outage of the storage is seen too.
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
    # Ray Data tells every execution of a data set on several lines, at every level.
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def show_worker_logs() -> None:
    """Of what Ray's processes print the console shows this project's lines; with `--verbose` Ray prints it all.

    Called after Ray is started; does nothing in a process without a console.
    """
    console = next((handler for handler in logging.getLogger().handlers if isinstance(handler, Console)), None)
    if console is not None and not console.verbose:
        ray_internals.show_worker_output(_show)


def _show(batch: dict[str, Any]) -> None:
    """Logs the marked lines of what one process has printed; that process has left out those of a lower level."""
    level = max(logging.INFO, logger.getEffectiveLevel())
    for line in batch["lines"]:
        if line.startswith(_PROGRESS_MARK):
            logger.log(level, "%s", line.removeprefix(_PROGRESS_MARK), extra={"origin": "", **PROGRESS_RECORD})
        elif line.startswith(_MARK):
            logger.log(level, "%s", line.removeprefix(_MARK), extra={"origin": ""})


@contextmanager
def native_output_kept() -> Iterator[None]:
    """What Ray's C++ writes to standard error goes to a temporary file; Python's own errors still show.

    The file is removed where a `with` block ends well, or by SystemExit with 0 (done) or 2 (wrong usage); else its name
    is printed. A native abort lets nothing be printed: then the file is there all the same.
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
            print(f"what native code has said last is in {name}", file=sys.stderr)


def _bound(file: int) -> None:
    """Keeps the file short as long as the process lives: in append mode what is written next follows its new end."""
    while True:
        time.sleep(_NATIVE_SECONDS)
        keep_tail(file, NATIVE_BYTES)


def keep_tail(file: int, num_bytes: int) -> None:
    """Cuts a file that is twice as long as `num_bytes` to its end. What is written meanwhile may be lost."""
    size = os.fstat(file).st_size
    if size > 2 * num_bytes:
        tail = os.pread(file, num_bytes, size - num_bytes)
        os.ftruncate(file, 0)
        os.write(file, tail)
