"""Estimate of the memory that training a network takes, without running it."""

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from dmlcsr.model import DMLCSR, Architecture

_PROCESS = 600 * 2**20
"""Bytes of a Python process that has imported torch, before its first step (measured: 0.3 to 0.6 GB)."""
_WORK = 1.4
"""Memory of activations, their gradients, kernel buffers and losses, relative to the activations kept for backward.

Measured in float32 on the CPU with three networks (ResNet-18 of width 0.25 at 128 pixels, of width 1 at 256 pixels,
ResNet-101 at 473 pixels): without the process, the estimate is 0.7 to 1.15 times the peak.
"""


def training_bytes(architecture: Architecture, batch_size: int, size: int, optimizer_states: int) -> int:
    """The estimated peak memory, in bytes, of one training process with batches of `batch_size` images.

    Images are `size` x `size` pixels. `optimizer_states` is the number of values that the optimizer keeps for each
    weight: 1 with momentum, 2 with AdamW.
    """
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.device("meta"), saved_tensors_hooks(keep, lambda value: value):  # shapes only: nothing is computed
        network = DMLCSR(architecture).train()
        outputs = network(torch.empty(batch_size, 3, size, size))
    weights = {parameter.untyped_storage()._cdata: parameter.nbytes for parameter in network.parameters()}
    storages = {value.untyped_storage()._cdata: value.untyped_storage().nbytes() for value in kept}
    activations = sum(count for storage, count in storages.items() if storage not in weights)
    del outputs
    return int(_PROCESS + sum(weights.values()) * (2 + optimizer_states) + activations * _WORK)
