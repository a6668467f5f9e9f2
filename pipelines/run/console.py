"""What people see while a command works: this project's lines, and of a long piece of work one line of progress.

On a terminal the line of progress is rewritten in place; elsewhere it is printed now and then. Ray prints everything
that any process of the cluster prints: without `--verbose` only what this project's workers say comes through.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from pipelines.run import ray_internals

_MARK, _PROGRESS_MARK = "dmlcsr| ", "dmlcsr~ "
"""Begin the lines of workers that are for people: those that stay, and progress."""
PLAIN_SECONDS = 10.0
"""Between two lines of progress where no terminal rewrites them."""
PROGRESS_RECORD = {"progress": True}
"""The `extra` of a log record that tells progress."""
logger = logging.getLogger(__name__)


class Console(logging.StreamHandler[TextIO]):
    """Writes log records to a terminal or a plain stream."""

    def __init__(self, stream: TextIO, verbose: bool) -> None:
        super().__init__(stream)
        self.verbose = verbose
        self.is_terminal = stream.isatty()
        self.line = ""
        self.last_logged = -PLAIN_SECONDS
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

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


def forward_logs_to_driver() -> None:
    """Sends the log lines of this process to the console of the driver, if it is one of Ray's workers.

    Every actor, every task and every training worker calls it first, so that an outage of the storage is seen too.
    """
    handlers = logging.getLogger().handlers
    if not ray_internals.is_worker() or any(isinstance(handler.formatter, _Marked) for handler in handlers):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Marked("%(message)s"))
    _log_to(handler)


def _log_to(handler: logging.Handler) -> None:
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("pipelines").setLevel(logging.INFO)
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
    """Logs the marked lines of what one process has printed."""
    for line in batch["lines"]:
        if line.startswith(_PROGRESS_MARK):
            logger.info("%s", line.removeprefix(_PROGRESS_MARK), extra=PROGRESS_RECORD)
        elif line.startswith(_MARK):
            logger.info("%s", line.removeprefix(_MARK))


def silence_native_code() -> None:
    """What Ray's C++ writes to this process' standard error goes nowhere; Python's own errors still show.

    It is in Ray's session folder all the same.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
