"""What people see: one line of progress on a terminal, plain lines elsewhere, none of what Ray prints."""

import io
import logging
import os
import pty
import subprocess
import sys
from contextlib import suppress

import pytest

import ray_job
from pipelines.run import console
from pipelines.run.console import PROGRESS_RECORD, Console
from tests.support.commands import ROOT


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


@pytest.fixture
def named():
    console.name_process("trial 00003 rank 1")
    yield
    console.name_process("")


def test_lines_name_the_process_that_says_them_once(log, named):
    stream = io.StringIO()
    log.addHandler(Console(stream, verbose=False))
    log.info("mine")
    log.info("[trial 00001] forwarded", extra={"origin": ""})
    texts = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert texts == ["[trial 00003 rank 1] mine", "[trial 00001] forwarded"]


@pytest.mark.parametrize("level", ["debug", "info", "warning", None, "loud"])
def test_the_level_of_lines_is_inherited_by_way_of_a_variable(monkeypatch, level):
    monkeypatch.delenv(console.LOG_LEVEL, raising=False)
    if level is not None:
        monkeypatch.setenv(console.LOG_LEVEL, level)
    with console.logging_to_console(verbose=False):
        wanted = logging.getLevelName(level.upper()) if level in ("debug", "warning") else logging.INFO
        assert logging.getLogger("pipelines.somewhere").getEffectiveLevel() == wanted


def test_what_workers_say_passes_whatever_the_level_of_the_driver(monkeypatch, capsys):
    monkeypatch.setenv(console.LOG_LEVEL, "warning")
    with console.logging_to_console(verbose=False):
        console._show({"lines": ["dmlcsr| the object store does not answer"]})
    assert "does not answer" in capsys.readouterr().err


NATIVE = """
import os, sys
from pipelines.run import console
with console.native_output_kept():
    os.write(2, b"native words")
    print("python words", file=sys.stderr)
    {end}
"""


@pytest.mark.parametrize(
    ("end", "is_kept"),
    [("sys.exit(0)", False), ("sys.exit(2)", False), ("pass", False), ("sys.exit(1)", True), ("1 / 0", True)],
)
def test_native_output_is_kept_where_a_command_fails(tmp_path, end, is_kept):
    done = subprocess.run(
        [sys.executable, "-c", NATIVE.format(end=end)], capture_output=True, text=True, cwd=ROOT, check=False,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    kept = [path.read_text() for path in tmp_path.glob("*.stderr")]
    assert kept == (["native words"] if is_kept else [])
    assert "python words" in done.stderr and "native words" not in done.stderr
    assert (str(tmp_path) in done.stderr) == is_kept
    assert "ZeroDivisionError" in done.stderr or end != "1 / 0"


def test_native_output_of_a_command_that_aborts_is_there(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NATIVE.format(end="os.abort()")], capture_output=True, cwd=ROOT, check=False,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode < 0 and [path.read_text() for path in tmp_path.glob("*.stderr")] == ["native words"]


def test_a_long_file_is_cut_to_its_end_and_goes_on_there(tmp_path):
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    os.write(file, b"x" * 150)
    console.keep_tail(file, 100)
    assert os.fstat(file).st_size == 150
    os.write(file, b"y" * 150)
    console.keep_tail(file, 100)
    os.write(file, b"z")
    os.close(file)
    assert (tmp_path / "file").read_bytes() == b"y" * 100 + b"z"
