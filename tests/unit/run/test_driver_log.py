"""`<run>/logs`: the driver's lines, one bounded file per attempt."""

import logging
import time

import pytest

from pipelines.run import driver_log as module
from pipelines.run.console import PROGRESS_RECORD
from pipelines.run.driver_log import driver_log

DEADLINE = 30.0


@pytest.fixture
def log():
    logger = logging.getLogger("pipelines.test_driver_log")
    logger.setLevel(logging.INFO)
    return logger


def content(folder):
    (file,) = (folder / "logs").glob("driver-*.log")
    return file.read_text()


def test_lines_are_written_while_the_command_works_and_at_its_end(log, tmp_path):
    with driver_log(str(tmp_path), seconds=0.01):
        log.info("first")
        deadline = time.monotonic() + DEADLINE
        while not (tmp_path / "logs").exists() or not list((tmp_path / "logs").glob("driver-*.log")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        log.info("step", extra=PROGRESS_RECORD)
        log.info("forwarded", extra={"origin": ""})
    log.info("later")
    texts = [line.split(" ", 2)[2] for line in content(tmp_path).splitlines()]
    assert texts == ["first", "forwarded"]


def test_why_the_command_ended_is_the_last_line(log, tmp_path):
    with pytest.raises(ValueError), driver_log(str(tmp_path)):
        log.info("first")
        raise ValueError("too hot")
    assert content(tmp_path).splitlines()[-1] == "ended by ValueError: too hot"


def test_the_last_lines_are_kept(log, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with driver_log(str(tmp_path)):
        for number in range(100):
            log.info("line %d", number)
    kept = content(tmp_path)
    assert len(kept) <= 1000 and kept.endswith("line 99\n") and "line 50\n" not in kept


def test_storage_that_takes_nothing_fails_no_command(log, tmp_path):
    (tmp_path / "file").touch()
    with driver_log(f"{tmp_path}/file/run", seconds=0.01):
        log.info("first")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
