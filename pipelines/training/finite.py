"""Optimizer steps that change nothing once a gradient is not finite, without making the host wait for the device.

The device decides whether a step changes anything. The host reads the decision a step later, when it has given the
device its next work.
"""

from collections import deque

import torch
from torch import Tensor
from torch.optim import Optimizer


class FiniteSteps:
    """Makes the steps of a fused optimizer. From the first gradient that is not finite on, they change nothing.

    PyTorch's fused optimizers leave weights, momentum and step counts as they are while their attribute `found_inf`
    is 1. `torch.amp.GradScaler` skips steps in the same way.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self._optimizer = optimizer
        self._failed = torch.zeros((), device=device)
        optimizer.found_inf = self._failed  # type: ignore[attr-defined]
        self._copies: deque[_HostCopy] = deque(maxlen=2)

    def step(self, gradient_norm: Tensor) -> None:
        """Makes a step. `gradient_norm`: the norm of the whole gradient, a scalar on the device."""
        self._failed.masked_fill_(~torch.isfinite(gradient_norm), 1.0)
        self._optimizer.step()
        self._copies.append(_HostCopy(self._failed))

    def failed(self, steps_ago: int = 0) -> bool:
        """True if a gradient up to the last step (0), or the one before (1), was not finite.

        Waits until the device has finished that step; False if there was no such step.
        """
        return len(self._copies) > steps_ago and self._copies[-1 - steps_ago].read() != 0


class _HostCopy:
    """The value of a scalar at one point of the device's work, which the host can read later."""

    def __init__(self, value: Tensor) -> None:
        self._value = value.to("cpu", non_blocking=True, copy=True)  # from CUDA: into pinned memory
        self._copied = torch.cuda.Event() if value.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def read(self) -> float:
        if self._copied is not None:
            self._copied.synchronize()
        return self._value.item()
