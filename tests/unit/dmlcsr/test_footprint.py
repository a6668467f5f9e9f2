"""The estimate of a training's memory, against what a network is seen to keep."""

from dmlcsr.footprint import training_bytes
from dmlcsr.model import Architecture
from tests.support.networks import kept_bytes, weight_bytes

SMALL = Architecture(num_classes=11, depth=18, width=0.25)
WIDE = Architecture(num_classes=11, depth=18, width=2.0)
PROCESS = 600 * 2**20


def test_each_state_of_the_optimiser_costs_the_weights_again() -> None:
    one, two = (training_bytes(SMALL, 2, 64, states) for states in (1, 2))
    assert two - one == weight_bytes(SMALL)


def test_activations_grow_with_the_batch_by_what_the_norms_keep_and_more() -> None:
    added = training_bytes(SMALL, 12, 128, 1) - training_bytes(SMALL, 4, 128, 1)
    kept = kept_bytes(SMALL, 8, 128)
    assert kept < added < 4 * kept


def test_weights_and_their_gradients_are_in_it() -> None:
    """A wide network on a picture so small that there are hardly any activations."""
    weights = weight_bytes(WIDE)
    assert weights > 100 * 2**20
    assert PROCESS + 2 * weights < training_bytes(WIDE, 2, 16, 0) < PROCESS + 2.5 * weights
