"""Lines about waits, so that a command that stands still says what for.

The rule: a wait that a normal run has rarely, and that can take minutes (resources, the first batch, an average), is
told at level INFO before it begins, by rank 0 only. One that comes with each epoch is told at DEBUG, one that comes
with each batch (NOTSET) not at all. Whatever the level, a wait that lasts is told once a minute at INFO, by every
process that waits: the ranks that do not wait are the ones to look at.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

logger = logging.getLogger(__name__)
MINUTE = 60.0
T = TypeVar("T")


@contextmanager
def waiting(what: str, bound: str = "no limit", level: int = logging.DEBUG, every: float = MINUTE) -> Iterator[None]:
    """Tells what a `with` block waits for and which setting bounds it: before, every minute, and after such a line."""
    logger.log(level, "waiting for %s (%s)", what, bound)
    begin, ended, is_told = time.monotonic(), threading.Event(), False

    def tell() -> None:
        nonlocal is_told
        while not ended.wait(every):
            is_told = True
            logger.info("still waiting for %s, %s min so far (%s)", what, minutes(time.monotonic() - begin), bound)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if is_told:
            logger.info("waited %s min for %s", minutes(time.monotonic() - begin), what)


def told_waits(
    items: Iterable[T], what: str, bound: str = "no limit", level: int = logging.DEBUG, every: float = MINUTE
) -> Iterator[T]:
    """The same items; the wait for the first one has the level, the others are told only if they last."""
    rest = iter(items)
    while True:
        with waiting(what, bound, level, every):
            try:
                item = next(rest)
            except StopIteration:
                return
        yield item
        level = logging.NOTSET


def minutes(seconds: float) -> str:
    """Seconds as `minutes:seconds`."""
    return "{}:{:02d}".format(*divmod(int(seconds), 60))
