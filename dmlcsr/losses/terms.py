"""A cross-entropy term, and the sums over terms that both ways to evaluate them need."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

LOVASZ = "lovasz"
"""The name of the Lovasz-softmax loss among the terms."""


class CrossEntropyTerm(NamedTuple):
    """A loss term: the sum over the pixels of `pixel_weights` times their cross-entropy."""

    name: str
    pixel_weights: Tensor
    """Plane (B, H, W) of any float type, zero on ignored pixels."""
    weight: float
    """Weight of the term in the total."""
    is_distilled: bool = False
    """True if KL(target || softmax) replaces the cross-entropy when a target is given."""


def weighted_sum(weights: Iterable[float], values: Tensor) -> Tensor:
    """The sum of weight * value over the first axis. The weights are not copied to the device."""
    parts = [weight * value for weight, value in zip(weights, values, strict=True)]
    total = parts.pop(0) if parts else values.new_zeros(values.shape[1:])
    for part in parts:
        total += part
    return total


def pixel_planes(terms: Sequence[CrossEntropyTerm], pixel_weights: Tensor, is_distilled: bool) -> tuple[Tensor, Tensor]:
    """The planes (B, H, W) by which the gradient weights the softmax, and the label's class.

    The first is the weighted sum of the terms' planes `pixel_weights` (K, B, H, W). In the second, if `is_distilled`,
    the terms that have a target are left out.
    """
    plane = weighted_sum([term.weight for term in terms], pixel_weights)
    hard = plane
    if is_distilled:
        for term, weights in zip(terms, pixel_weights, strict=True):
            hard = hard - term.weight * weights if term.is_distilled else hard
    return plane, hard
