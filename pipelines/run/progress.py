"""Progress lines for long work: an epoch of training, and passes over many rows."""

import logging
import time

from torch import Tensor

from pipelines.run.console import PROGRESS_RECORD

logger = logging.getLogger(__name__)
LOG_SECONDS = 1.0
"""Shortest time between two progress records. Each one waits for the device; the console may show fewer."""


class Progress:
    """Logs the step of an epoch, images per second and the time left for the training, at most once per LOG_SECONDS."""

    def __init__(self, epoch: int, num_epochs: int, num_steps: int, rank: int, best_f1: float | None) -> None:
        self.epoch, self.num_epochs, self.num_steps = epoch, num_epochs, num_steps
        self.best = "" if best_f1 is None else f", best F1 {100 * best_f1:.2f} %"
        self.silent = rank != 0
        self.begin = self.last_logged = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    def log(self, step: int, images_per_step: int, loss: Tensor) -> None:
        """Logs a step. `loss`, a scalar on the device, is only copied to the CPU if the step is logged."""
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
    """Logs a progress line. The one of the last item is an ordinary log line, which stays on the console."""
    logger.info("%s", text, extra=PROGRESS_RECORD if done < num_all else None)


class RowProgress:
    """Logs the number of finished rows, images per second and the time left, at most once per LOG_SECONDS."""

    def __init__(self, verb: str, num_rows: int) -> None:
        self.verb, self.num_rows = verb, num_rows
        self.done = self.kept = 0
        self.begin, self.last_logged = time.monotonic(), 0.0

    @property
    def rate(self) -> float:
        """Rows per second of this attempt."""
        return (self.done - self.kept) / (time.monotonic() - self.begin)

    def add(self, num_rows: int, is_kept: bool) -> None:
        """Counts finished rows. Those that an earlier attempt finished (`is_kept`) are left out of the rate."""
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
