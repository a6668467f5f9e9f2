"""Learning rate of the paper's recipe as a function of the fractional epoch (docs/method.md, section 5)."""

import math

_FLOOR = 0.01
"""Fraction of the peak rate at which the warm-up starts and every cosine ends."""


def learning_rate(epoch: float, *, lr: float, warmup_epochs: float, csr_start: float, cycle_epochs: float) -> float:
    """The learning rate at `epoch`, a fractional number of epochs from 0.

    It rises linearly from lr / 100 to lr over `warmup_epochs`, then falls along a cosine from lr to lr / 100 until
    `csr_start`. In each cycle of `cycle_epochs` epochs it falls along a cosine from lr / 2 to lr / 100. Raises
    ValueError for a negative epoch, a warm-up that is longer than `csr_start`, or a cycle of no length.
    """
    if epoch < 0 or not 0 <= warmup_epochs <= csr_start or cycle_epochs <= 0:
        raise ValueError(
            "need epoch >= 0, 0 <= warmup_epochs <= csr_start and cycle_epochs > 0, got "
            f"epoch {epoch}, warmup_epochs {warmup_epochs}, csr_start {csr_start}, cycle_epochs {cycle_epochs}"
        )
    floor = _FLOOR * lr
    if epoch < min(warmup_epochs, csr_start):
        return floor + (lr - floor) * epoch / warmup_epochs
    if epoch < csr_start:
        return _cosine(lr, floor, (epoch - warmup_epochs) / (csr_start - warmup_epochs))
    return _cosine(0.5 * lr, floor, (epoch - csr_start) % cycle_epochs / cycle_epochs)


def _cosine(start: float, end: float, fraction: float) -> float:
    """The value of half a cosine wave from `start` at fraction 0 to `end` at fraction 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * fraction))
