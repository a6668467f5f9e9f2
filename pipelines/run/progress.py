"""Progress of long work, for people."""

import logging
import time

from torch import Tensor

from pipelines.run.console import PROGRESS_RECORD

logger = logging.getLogger(__name__)
LOG_SECONDS = 1.0
"""Between two looks at the device; the console decides what is shown."""


class Progress:
    """Tells, now and then, how far the epoch is, how fast, and how long the training will still take."""

    def __init__(self, epoch: int, num_epochs: int, num_steps: int, rank: int, best_f1: float | None) -> None:
        self.epoch, self.num_epochs, self.num_steps = epoch, num_epochs, num_steps
        self.best = "" if best_f1 is None else f", best F1 {100 * best_f1:.2f} %"
        self.silent = rank != 0
        self.begin = self.last_logged = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    def log(self, step: int, images_per_step: int, loss: Tensor) -> None:
        """`loss`: a scalar, which stays on the device but for the steps that are told."""
        if self.silent or time.monotonic() - self.last_logged < LOG_SECONDS:
            return
        self.last_logged = time.monotonic()
        per_step = self.seconds / step
        left = per_step * ((self.num_epochs - self.epoch) * self.num_steps - step)
        logger.info(
            "epoch %d/%d, step %d/%d: loss %.3f%s, %.1f images/s, %d:%02d min left",
            self.epoch + 1,
            self.num_epochs,
            step,
            self.num_steps,
            loss.item(),
            self.best,
            images_per_step / per_step,
            *divmod(int(left), 60),
            extra=PROGRESS_RECORD,
        )


def log_count(text: str, done: int, num_all: int) -> None:
    """A line of progress; the last one stays."""
    logger.info("%s", text, extra=PROGRESS_RECORD if done < num_all else None)


class RowProgress:
    """Tells, now and then, how many rows are done, how fast, and how long the rest will take."""

    def __init__(self, verb: str, num_rows: int) -> None:
        self.verb, self.num_rows = verb, num_rows
        self.done = self.kept = 0
        self.begin, self.last_logged = time.monotonic(), 0.0

    @property
    def rate(self) -> float:
        """Rows per second of this attempt."""
        return (self.done - self.kept) / (time.monotonic() - self.begin)

    def add(self, num_rows: int, is_kept: bool) -> None:
        """Counts rows; those of an earlier attempt say nothing about the rate."""
        self.done += num_rows
        self.kept += num_rows * is_kept
        if time.monotonic() - self.last_logged < LOG_SECONDS and self.done < self.num_rows:
            return
        self.last_logged = time.monotonic()
        left = divmod(int((self.num_rows - self.done) / self.rate), 60) if self.rate else None
        text = f"{self.verb} {self.done} of {self.num_rows} rows"
        text += f" ({self.kept} by an earlier attempt)" if self.kept else ""
        text += f", {self.rate:.1f} images/s" + (", {}:{:02d} min left".format(*left) if left else "")
        log_count(text, self.done, self.num_rows)
