"""What training a network costs in memory, without doing it."""

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from dmlcsr.model import DMLCSR, Architecture

_PROCESS = 600 * 2**20
"""Bytes of a Python process with torch and what it works with, before the first step (measured: 0.3 to 0.6 GB)."""
_WORK = 1.4
"""Gradients of activations, buffers of kernels and the losses, relative to the activations that are kept. Measured in
float32 on the CPU with three networks (ResNet-18 of a quarter of the width at 128, of full width at 256, ResNet-101 at
473 pixels): the estimate is 0.7 to 1.15 times the peak, without the process."""


def training_bytes(architecture: Architecture, batch_size: int, size: int, optimizer_states: int) -> int:
    """Estimated peak memory in bytes of one training process: batches of `batch_size` images of `size` pixels a side.

    `optimizer_states` are the tensors that the optimiser keeps for each weight: 1 with momentum, 2 with AdamW.
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
