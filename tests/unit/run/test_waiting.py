"""Waits are told: before, again and again while they last, and afterwards."""

import logging
import threading

import pytest

from pipelines.run.waiting import minutes, told_waits, waiting

DEADLINE = 30.0


class Lines(logging.Handler):
    """Collects lines; `reached` is set with the first one that has a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.reached = text, threading.Event()
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, record.getMessage()))
        if self.text in record.getMessage():
            self.reached.set()


@pytest.fixture
def lines():
    logger = logging.getLogger("pipelines.run.waiting")
    handler, level = Lines("still waiting"), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_wait_that_lasts_is_told_before_during_and_after(lines):
    with waiting("the tide", "limit: the moon", logging.INFO, every=0.01):
        assert lines.reached.wait(DEADLINE)
    assert lines.lines[0] == (logging.INFO, "waiting for the tide (limit: the moon)")
    texts = [text for _, text in lines.lines]
    assert texts[1] == "still waiting for the tide, 0:00 min so far (limit: the moon)"
    assert texts[-1] == "waited 0:00 min for the tide"


def test_a_short_wait_is_told_at_its_level_only(lines):
    with waiting("the post"):
        pass
    with waiting("the bus", level=logging.NOTSET):
        pass
    assert lines.lines == [(logging.DEBUG, "waiting for the post (no limit)")]


def test_a_wait_that_fails_ends_its_lines(lines):
    with pytest.raises(ValueError, match="gone"), waiting("the train", every=0.01):
        assert lines.reached.wait(DEADLINE)
        raise ValueError("gone")
    assert lines.lines[-1][1] == "waited 0:00 min for the train"
    assert not any("log_while_waiting" in thread.name for thread in threading.enumerate())


def test_of_many_items_the_wait_for_the_first_is_told_and_that_for_another_if_it_lasts(lines):
    def slow():
        yield 1
        yield 2
        assert lines.reached.wait(DEADLINE)
        yield 3

    assert list(told_waits(slow(), "the next", level=logging.INFO, every=0.05)) == [1, 2, 3]
    assert [text for _, text in lines.lines].count("waiting for the next (no limit)") == 1


def test_what_is_waited_for_by_another_is_not_taken_from_it():
    """Items are fetched one by one: what is behind the last one that was used stays."""
    source = iter(range(4))
    assert next(iter(told_waits(source, "a number"))) == 0
    assert list(source) == [1, 2, 3]


def test_minutes():
    assert minutes(0.9) == "0:00" and minutes(3671) == "61:11"
