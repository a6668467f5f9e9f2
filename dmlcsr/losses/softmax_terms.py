"""Weighted sums of per-pixel cross-entropies and the Lovasz-softmax loss, with one softmax for all of them.

A cross-entropy term is described by its plane: (B, H, W) weights of the pixels, which already include class
weights and the division of a mean, so that the term is sum_i plane_i * nll_i. The softmax of the upsampled logits s is
only needed for a few scalars. Therefore the gradient is computed together with the values, and no graph of full-size
tensors is kept. With p = softmax(s), g = a d Lovasz / d p (a: the weight of Lovasz) and each plane multiplied by the
weight of its term:

    d total / d s = p * sum(planes) - onehot(label) * sum(planes) + p * (g - <p, g>)

A term whose gradient has no such form does not belong here: it is added to the total, and autograd computes its
gradient.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dmlcsr.losses import cpu_terms, cuda_terms
from dmlcsr.losses.terms import LOVASZ, CrossEntropyTerm, weighted_sum


def weighted_terms(
    logits: Tensor,
    label: Tensor,
    terms: Sequence[CrossEntropyTerm],
    *,
    target: Tensor | None = None,
    lovasz_weight: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(differentiable total, detached scalars by name): total = sum of weight * term.

    `logits` (B, C, h, w) are upsampled in float32 or float64 to the size of `label` (B, H, W), uint8 with 255 = ignore.
    `target`: probabilities (B, C, H, W). If `lovasz_weight` is given, the Lovasz-softmax loss is another term, named
    LOVASZ. Raises ValueError if two terms have the same name.
    """
    weights = {term.name: term.weight for term in terms} | ({} if lovasz_weight is None else {LOVASZ: lovasz_weight})
    if len(weights) != len(terms) + (lovasz_weight is not None):
        raise ValueError(f"terms must have different names, got {[term.name for term in terms]}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    pixel_weights = _stack([term.pixel_weights for term in terms], label).to(logits.dtype)
    target = target if any(term.is_distilled for term in terms) else None
    with_gradient = torch.is_grad_enabled() and logits.requires_grad
    evaluate = cuda_terms.evaluate if logits.is_cuda else cpu_terms.evaluate
    with torch.no_grad():
        values, gradient = evaluate(logits, label, terms, pixel_weights, target, lovasz_weight, with_gradient)
        total = weighted_sum(weights.values(), values)
    if gradient is not None:
        total = cast(Tensor, _WithGradient.apply(logits, total, gradient))  # type: ignore[no-untyped-call]
    return total, dict(zip(weights, values, strict=True))


def _stack(planes: Sequence[Tensor], label: Tensor) -> Tensor:
    """(K, B, H, W) stack of the planes; a single plane is not copied."""
    if len(planes) == 1:
        return planes[0][None]
    return torch.stack(list(planes)) if planes else torch.empty(0, *label.shape, device=label.device)


class _WithGradient(torch.autograd.Function):
    """A scalar whose gradient with respect to `logits` is already known."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grad_output, None, None
