"""What people see: one line of progress on a terminal, plain lines elsewhere, none of what Ray prints."""

import io
import logging
import os
import pty
from contextlib import suppress

import pytest

import ray_job
from pipelines.run import console
from pipelines.run.console import PROGRESS_RECORD, Console


@pytest.fixture
def log():
    """A logger that only the test's handler hears."""
    logger = logging.getLogger("pipelines.test_console")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    yield logger
    logger.handlers.clear()


def on_terminal(log, talk):
    """What a terminal of 80 columns receives."""
    leader, follower = pty.openpty()
    with open(follower, "w") as stream:  # noqa: PTH123 (a file descriptor)
        opened = Console(stream, verbose=False)
        log.addHandler(opened)
        talk()
        opened.end_progress()
    received = b""
    with suppress(OSError):  # the terminal is closed on the other side
        while part := os.read(leader, 4096):
            received += part
    os.close(leader)
    return received.decode()


def test_a_terminal_shows_one_line_of_progress_that_is_rewritten(log, monkeypatch):
    monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((80, 24)))

    def talk():
        log.info("step 1", extra=PROGRESS_RECORD)
        log.info("step %s", "2" * 200, extra=PROGRESS_RECORD)
        log.info("epoch done")

    received = on_terminal(log, talk)
    lines = received.replace("\r\n", "\n").split("\n")
    assert len(lines) == 2, "only the line that stays ends"
    assert lines[0].split("\r\x1b[K")[-1].endswith("epoch done")
    shown = lines[1].split("\r\x1b[K")
    assert len(shown[0]) == 79 and "step 222" in shown[0], "the progress comes back below, cut to the terminal"
    assert shown[-1] == "", "nothing is left of it in the end"


def test_elsewhere_progress_is_a_plain_line_now_and_then(log):
    stream = io.StringIO()
    log.addHandler(Console(stream, verbose=False))
    for step in range(100):
        log.info("step %d", step, extra=PROGRESS_RECORD)
    log.info("epoch done")
    lines = stream.getvalue().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["step 0", "epoch done"]
    assert "\x1b" not in stream.getvalue() and "\r" not in stream.getvalue()


def test_a_command_that_has_ended_leaves_no_console(tmp_path):
    """Its stream may be closed, and the next line of any other code would fail."""
    assert ray_job.main(["status", "--run", str(tmp_path / "none")]) == 2
    assert not any(isinstance(handler, Console) for handler in logging.getLogger().handlers)


def test_of_what_ray_prints_only_our_workers_lines_are_shown(caplog):
    worker = logging.StreamHandler(io.StringIO())
    worker.setFormatter(console._Marked("%(message)s"))
    for text, extra in (("epoch 1 done\nsecond line", {}), ("step 3", PROGRESS_RECORD)):
        worker.handle(logging.makeLogRecord({"msg": text, **extra}))
    lines = ["core_worker.cc: E chatter", *worker.stream.getvalue().splitlines(), "Found multiple active Ray instances"]
    with caplog.at_level(logging.INFO, logger="pipelines"):
        console._show({"lines": lines, "is_err": True, "pid": 1})
    assert [record.getMessage() for record in caplog.records] == ["epoch 1 done", "second line", "step 3"]
    assert [getattr(record, "progress", False) for record in caplog.records] == [False, False, True]
