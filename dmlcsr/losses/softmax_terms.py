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

import math
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dmlcsr.losses.lovasz import lovasz_and_gradient
from dmlcsr.losses.upsample import BilinearResize
from dmlcsr.taxonomy import IGNORE

_CHUNK = 1 << 20
"""Number of values at label size that are evaluated together. Smaller chunks need more calls; larger chunks do not fit
in the cache."""

_SAFE = 32.0
"""If all logits are between -_SAFE and 0, no maximum is subtracted: exp(-32) is far above the smallest float32."""

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
    # Lovasz pools the batch. Without it, chunks of fewer images need less memory and stay in the cache.
    size = len(label) if lovasz_weight is not None else max(1, _CHUNK // (logits.shape[1] * label[0].numel()))
    chunks = [slice(start, start + size) for start in range(0, len(label), size)]
    with torch.no_grad():
        resize = BilinearResize.between(logits.shape[2:], label.shape[1:], logits)
        results = []
        for c in chunks:
            soft = None if target is None else target[c]
            chunk = _Chunk(resize, logits[c], label[c], terms, pixel_weights[:, c], soft)
            results.append(chunk.evaluate(lovasz_weight, with_gradient))
        values = torch.stack([values for values, _ in results]).sum(0)
        total = _weighted_sum(weights.values(), values)
    if with_gradient:
        gradient = torch.cat([gradient for _, gradient in results if gradient is not None])
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
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grad_output, None, None


def _weighted_sum(weights: Iterable[float], values: Tensor) -> Tensor:
    """The sum of weight * value over the first axis. The weights are not copied to the device."""
    total = values.new_zeros(values.shape[1:])
    for weight, value in zip(weights, values, strict=True):
        total += weight * value
    return total


class _Chunk:
    """Images that are evaluated together, with the arguments of `weighted_terms`. Works in place, so it is used once.

    `pixel_weights`: those of these images, (K, B, H, W) in the order of the terms.
    """

    def __init__(
        self,
        resize: BilinearResize,
        logits: Tensor,
        label: Tensor,
        terms: Sequence[CrossEntropyTerm],
        pixel_weights: Tensor,
        target: Tensor | None,
    ) -> None:
        (batch, classes), (height, width) = logits.shape[:2], label.shape[1:]
        # Subtracting the maximum at each source pixel changes no softmax and keeps most logits in the range of exp.
        logits = logits - logits.amax(1, keepdim=True)
        self.bounded = logits.device.type == "cpu" and logits.min().item() > -_SAFE
        self.resize, self.label, self.terms, self.pixel_weights = resize, label, terms, pixel_weights
        self.values = resize(logits, _scratch("values", (batch, height, classes, width), logits)).transpose(1, 2)
        """(B, H, C, W), contiguous: first the logits, then their exponentials, finally the gradient."""
        self.target = None if target is None else target.transpose(1, 2).to(self.values.dtype)
        self.index = _flat_index(label, logits.shape[1])

    def evaluate(self, lovasz_weight: float | None, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """(terms, gradient): (K,) terms, or (K + 1,) with Lovasz last, and their gradient by the logits, or None.

        The gradient is that of the weighted sum of the terms. It is None unless `with_gradient`.
        """
        terms, total = self._exponentials()
        if lovasz_weight is None:
            return terms, self._gradient(total, None) if with_gradient else None
        self.values /= total[:, :, None]
        probs = self.values.transpose(1, 2)
        out = _scratch("gradient", probs.transpose(0, 1).shape, probs)
        loss, gradient = lovasz_and_gradient(probs, self.label, out=out)
        terms = torch.cat([terms, loss[None]])
        return terms, self._gradient(None, gradient.transpose(1, 2), lovasz_weight) if with_gradient else None

    def _exponentials(self) -> tuple[Tensor, Tensor]:
        """(K,) cross-entropy terms and (B, H, W) sums of exponentials. Replaces the logits by their exponentials."""
        values = self.values
        if not self.bounded:
            values -= values.amax(2, keepdim=True)
        nll = -values.view(-1).index_select(0, self.index).view(self.label.shape)[None]
        if self.target is not None:  # KL = sum t log t - sum t log p
            soft = torch.xlogy(self.target, self.target).sum(2) - (self.target * values).sum(2)
            nll = torch.stack([soft if term.is_distilled else nll[0] for term in self.terms])
        total = values.exp_().sum(2)
        return (self.pixel_weights * (nll + total.log())).flatten(1).sum(1), total

    def _gradient(self, total: Tensor | None, lovasz_gradient: Tensor | None, lovasz_weight: float = 0.0) -> Tensor:
        """The gradient with respect to the logits before upsampling. Overwrites `self.values`.

        The values are exponentials with the sum `total`, or probabilities if `lovasz_gradient` (B, H, C, W) is given.
        """
        values, plane = self.values, _weighted_sum([term.weight for term in self.terms], self.pixel_weights)
        hard = self._of_hard_labels(plane)
        if total is not None:
            values *= (plane / total)[:, :, None]
        if lovasz_gradient is not None:
            weighted = lovasz_gradient.mul_(values)
            values *= (plane - lovasz_weight * weighted.sum(2))[:, :, None]
            values.add_(weighted, alpha=lovasz_weight)
        values.view(-1).scatter_add_(0, self.index, -hard.flatten())
        if self.target is not None:
            values.addcmul_(self.target, (plane - hard)[:, :, None], value=-1)
        return self.resize.transposed(values.transpose(1, 2))

    def _of_hard_labels(self, plane: Tensor) -> Tensor:
        """The plane (B, H, W) of the terms that use the label: `plane` minus the planes of the distilled terms."""
        if self.target is not None:
            for term, pixel_weights in zip(self.terms, self.pixel_weights, strict=True):
                plane = plane - term.weight * pixel_weights if term.is_distilled else plane
        return plane


_kept = threading.local()


def _scratch(name: str, shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor of uninitialized memory for this step, of the dtype and device of `like`.

    A CPU thread reuses its memory, because new pages cost more time than the sums.
    """
    if like.device.type != "cpu":
        return like.new_empty(*shape)
    size, buffer = math.prod(shape), cast(Tensor | None, getattr(_kept, name, None))
    if buffer is None or buffer.numel() < size or buffer.dtype != like.dtype:
        with torch.inference_mode(False):
            buffer = torch.empty(size, dtype=like.dtype)
        setattr(_kept, name, buffer)
    return buffer[:size].view(*shape)


def _flat_index(label: Tensor, num_classes: int) -> Tensor:
    """(B * H * W,) positions of each pixel's class in contiguous (B, H, C, W); faster than gather.

    Ignored pixels get the position of class 0.
    """
    label = label.masked_fill(label == IGNORE, 0)
    torch._assert_async(label.max() < num_classes, f"labels must be below {num_classes} or {IGNORE}")
    batch, height, width = label.shape
    rows = torch.arange(0, batch * height * num_classes * width, num_classes * width, device=label.device)
    index = rows.view(batch, height, 1) + torch.arange(width, device=label.device)
    return index.add_(label, alpha=width).flatten()
