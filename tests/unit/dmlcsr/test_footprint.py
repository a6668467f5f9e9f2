"""The estimate of a training's memory, against what a network is seen to keep."""

import torch
from torch import Tensor, nn

from dmlcsr.footprint import training_bytes
from dmlcsr.model import DMLCSR, Architecture
from dmlcsr.model.layers import BatchNorm

SMALL = Architecture(num_classes=11, depth=18, width=0.25)
WIDE = Architecture(num_classes=11, depth=18, width=2.0)
PROCESS = 600 * 2**20


def network_of(architecture: Architecture) -> DMLCSR:
    with torch.device("meta"):
        return DMLCSR(architecture)


def weight_bytes(architecture: Architecture) -> int:
    return sum(parameter.nbytes for parameter in network_of(architecture).parameters())


def test_each_state_of_the_optimiser_costs_the_weights_again() -> None:
    one, two = (training_bytes(SMALL, 2, 64, states) for states in (1, 2))
    assert two - one == weight_bytes(SMALL)


def test_activations_grow_with_the_batch_by_what_the_norms_keep_and_more() -> None:
    network, seen = network_of(SMALL), []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].nbytes)

    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.register_forward_pre_hook(note)
    network(torch.empty(8, 3, 128, 128, device="meta"))
    added = training_bytes(SMALL, 12, 128, 1) - training_bytes(SMALL, 4, 128, 1)
    assert sum(seen) < added < 4 * sum(seen)


def test_weights_and_their_gradients_are_in_it() -> None:
    """A wide network on a picture so small that there are hardly any activations."""
    weights = weight_bytes(WIDE)
    assert weights > 100 * 2**20
    assert PROCESS + 2 * weights < training_bytes(WIDE, 2, 16, 0) < PROCESS + 2.5 * weights
