"""Weighted sums of per-pixel cross-entropies and the Lovasz-softmax loss, with one softmax for all of them.

A cross-entropy term is described by its plane: (B, H, W) weights of the pixels, which already hold class
weights and means, so that the term is sum_i plane_i * nll_i. The softmax of the upsampled logits s exists only to
be reduced to a few scalars, so the gradient is computed beside the values and no graph of full-size tensors is
kept. With p = softmax(s), g = d Lovasz / d p and the planes times their factors:

    d total / d s = p * sum(planes) - onehot(label) * sum(planes) + p * (g - <p, g>)
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dmlcsr.lovasz import lovasz_and_gradient
from dmlcsr.taxonomy import IGNORE
from dmlcsr.upsample import BilinearResize


def weighted_terms(
    logits: Tensor,
    label: Tensor,
    planes: Tensor,
    factors: Sequence[float],
    *,
    target: Tensor | None = None,
    lovasz_factor: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(differentiable total, detached terms): total = sum of factor * term.

    `logits` (B, C, h, w) are upsampled to `label` (B, H, W), uint8 with 255 = ignore, in float32 at least.
    `planes` (K, B, H, W), zero on ignored pixels, and K `factors` describe the cross-entropy terms. With a
    `target` (B, C, H, W) of probabilities the first term is of KL(target || softmax) instead. With a
    `lovasz_factor` the Lovasz-softmax loss is one more term, the last. Terms: (K,) or (K + 1,).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    planes = planes.to(logits.dtype)
    with_gradient = torch.is_grad_enabled() and logits.requires_grad
    # Lovasz pools the batch; without it one image at a time takes less memory and stays in the cache.
    size = 1 if lovasz_factor is None else len(label)
    chunks = [slice(start, start + size) for start in range(0, len(label), size)]
    with torch.no_grad():
        resize = BilinearResize.between(logits.shape[2:], label.shape[1:], logits)
        results = [
            _Chunk(resize, logits[c], label[c], planes[:, c], factors, None if target is None else target[c])
            .evaluate(lovasz_factor, with_gradient)
            for c in chunks
        ]  # fmt: skip
        terms = torch.stack([terms for terms, _ in results]).sum(0)
        all_factors = factors if lovasz_factor is None else (*factors, lovasz_factor)
        total = _weighted_sum(all_factors, terms)
    if with_gradient:
        gradient = torch.cat([gradient for _, gradient in results if gradient is not None])
        total = cast(Tensor, _WithGradient.apply(logits, total, gradient))  # type: ignore[no-untyped-call]
    return total, terms


class _WithGradient(torch.autograd.Function):
    """A scalar whose gradient with respect to `logits` is already known."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grad_output, None, None


def _weighted_sum(factors: Sequence[float], parts: Tensor) -> Tensor:
    """Sum of factor * part over the first axis; the factors stay on the host."""
    total = parts.new_zeros(parts.shape[1:])
    for factor, part in zip(factors, parts, strict=True):
        total += factor * part
    return total


class _Chunk:
    """Images that are evaluated together; arguments as of `weighted_terms`. Used once: it works in place."""

    def __init__(
        self,
        resize: BilinearResize,
        logits: Tensor,
        label: Tensor,
        planes: Tensor,
        factors: Sequence[float],
        target: Tensor | None,
    ) -> None:
        self.resize, self.label, self.planes = resize, label, planes
        self.factors, self.target = factors, target
        self.index = label.masked_fill(label == IGNORE, 0).long()[:, None]
        self.values = resize(logits)
        """(B, C, H, W): logits, then probabilities, at last the gradient."""

    def evaluate(self, lovasz_factor: float | None, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """(terms, gradient with respect to the logits given, if asked for)."""
        terms, lovasz_gradient = self._softmax(), None
        if lovasz_factor is not None:
            loss, lovasz_gradient = lovasz_and_gradient(self.values, self.label)
            lovasz_gradient *= lovasz_factor
            terms = torch.cat([terms, loss[None]])
        return terms, self._gradient(lovasz_gradient) if with_gradient else None

    def _softmax(self) -> Tensor:
        """(K,) cross-entropy terms; turns the logits into probabilities."""
        nll = torch.stack([self._softmax_of(i) for i in range(len(self.values))], dim=1)
        return (self.planes * nll).flatten(1).sum(1)

    def _softmax_of(self, i: int) -> Tensor:
        """(1 or K, H, W): what the planes of image i weigh."""
        values = self.values[i]
        values -= values.amax(0)
        picked = values.gather(0, self.index[i])
        if self.target is not None:  # KL = sum t log t - sum t log p, in the first plane only
            target = self.target[i].to(values.dtype)
            soft = (target * values).sum(0) - torch.xlogy(target, target).sum(0)
            picked = torch.stack([soft, *picked.expand(len(self.planes) - 1, -1, -1)])
        total = values.exp_().sum(0)
        values /= total
        return total.log() - picked

    def _gradient(self, lovasz_gradient: Tensor | None) -> Tensor:
        """Gradient with respect to the logits before upsampling; turns probabilities into gradients."""
        plane = _weighted_sum(self.factors, self.planes)
        soft = torch.zeros_like(plane) if self.target is None else self.factors[0] * self.planes[0]
        hard = plane - soft
        for i, values in enumerate(self.values):
            if lovasz_gradient is None:
                values *= plane[i]
            else:
                weighted = lovasz_gradient[i].mul_(values)
                values *= plane[i] - weighted.sum(0)
                values += weighted
            values.scatter_add_(0, self.index[i], -hard[i][None])
            if self.target is not None:
                values.addcmul_(self.target[i].to(values.dtype), soft[i], value=-1)
        return self.resize.transposed(self.values)
