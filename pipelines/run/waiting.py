"""Log lines about waits, so that a command that makes no progress says what it is waiting for.

The level of the line before a wait depends on the wait. Waits that are rare and can take minutes (resources, the first
batch, an average) are logged at INFO, by rank 0 only. Waits of each epoch are logged at DEBUG. Waits for each batch
have the level NOTSET and are not logged. A wait of any level that lasts is logged once a minute at INFO by every
process that waits. The ranks without such a line are the ones that the others wait for.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

logger = logging.getLogger(__name__)
MINUTE = 60.0
"""Time between two lines about a wait that lasts."""
T = TypeVar("T")


@contextmanager
def waiting(what: str, bound: str = "no limit", level: int = logging.DEBUG, every: float = MINUTE) -> Iterator[None]:
    """Logs `what` a `with` block waits for and the setting that bounds it.

    The first line has `level`. INFO lines follow every `every` seconds, and at the end if there was one of these.
    """
    logger.log(level, "waiting for %s (%s)", what, bound)
    begin, ended, has_lasted = time.monotonic(), threading.Event(), False

    def log_while_waiting() -> None:
        nonlocal has_lasted
        while not ended.wait(every):
            has_lasted = True
            logger.info("still waiting for %s, %s min so far (%s)", what, minutes(time.monotonic() - begin), bound)

    thread = threading.Thread(target=log_while_waiting, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if has_lasted:
            logger.info("waited %s min for %s", minutes(time.monotonic() - begin), what)


def told_waits(
    items: Iterable[T], what: str, bound: str = "no limit", level: int = logging.DEBUG, every: float = MINUTE
) -> Iterator[T]:
    """Yields the items. Logs the wait for the first one at `level`, and for the others only if it lasts."""
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
