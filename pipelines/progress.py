"""Progress of a training, for people."""

import logging
import time

from torch import Tensor

logger = logging.getLogger(__name__)
LOG_SECONDS = 10.0


class Progress:
    """Tells, now and then, how far the epoch is, how fast, and how long the training will still take."""

    def __init__(self, epoch: int, num_epochs: int, num_steps: int, rank: int) -> None:
        self.epoch, self.num_epochs, self.num_steps = epoch, num_epochs, num_steps
        self.silent = rank != 0
        self.begin = self.told = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    def tell(self, step: int, images_per_step: int, parts: Tensor) -> None:
        """Scalars stay on the device but for the steps that are told."""
        if self.silent or time.monotonic() - self.told < LOG_SECONDS:
            return
        self.told = time.monotonic()
        per_step = self.seconds / step
        left = per_step * ((self.num_epochs - self.epoch) * self.num_steps - step)
        logger.info(
            "epoch %d/%d, step %d/%d: loss %.3f, %.1f images/s, %d:%02d min left",
            self.epoch + 1,
            self.num_epochs,
            step,
            self.num_steps,
            parts[0].item(),
            images_per_step / per_step,
            *divmod(int(left), 60),
        )
