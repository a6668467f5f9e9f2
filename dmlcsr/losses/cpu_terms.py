"""Evaluates the terms of `softmax_terms` on a CPU: in place, a few images at a time, so that they stay in the cache."""

import math
import threading
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from dmlcsr.losses.lovasz import lovasz_by_class
from dmlcsr.losses.terms import CrossEntropyTerm, pixel_planes
from dmlcsr.losses.upsample import BilinearResize
from dmlcsr.taxonomy import IGNORE

_CHUNK = 1 << 20
"""Number of values at label size that are evaluated together. Smaller chunks need more calls; larger chunks do not fit
in the cache."""

_SAFE = 32.0
"""If all logits are between -_SAFE and 0, no maximum is subtracted: exp(-32) is far above the smallest float32."""


def evaluate(
    logits: Tensor,
    label: Tensor,
    terms: Sequence[CrossEntropyTerm],
    pixel_weights: Tensor,
    target: Tensor | None,
    lovasz_weight: float | None,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """(terms, gradient): (K,) terms, or (K + 1,) with Lovasz last, and their gradient by the logits, or None.

    The arguments are those of `weighted_terms`, and `pixel_weights` (K, B, H, W), the planes of the terms. The gradient
    is that of the weighted sum of the terms. It is None unless `with_gradient`.
    """
    # Lovasz pools the batch. Without it, chunks of fewer images need less memory and stay in the cache.
    size = len(label) if lovasz_weight is not None else max(1, _CHUNK // (logits.shape[1] * label[0].numel()))
    chunks = [slice(start, start + size) for start in range(0, len(label), size)]
    resize = BilinearResize.between(logits.shape[2:], label.shape[1:], logits)
    results = []
    for c in chunks:
        soft = None if target is None else target[c]
        chunk = _Chunk(resize, logits[c], label[c], terms, pixel_weights[:, c], soft)
        results.append(chunk.evaluate(lovasz_weight, with_gradient))
    values = torch.stack([values for values, _ in results]).sum(0)
    gradients = [gradient for _, gradient in results if gradient is not None]
    return values, torch.cat(gradients) if gradients else None


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
        self.bounded = logits.min().item() > -_SAFE
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
        loss, gradient = lovasz_by_class(probs, self.label, IGNORE, out)
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
        values, target = self.values, self.target
        plane, hard = pixel_planes(self.terms, self.pixel_weights, is_distilled=target is not None)
        if total is not None:
            values *= (plane / total)[:, :, None]
        if lovasz_gradient is not None:
            weighted = lovasz_gradient.mul_(values)
            values *= (plane - lovasz_weight * weighted.sum(2))[:, :, None]
            values.add_(weighted, alpha=lovasz_weight)
        values.view(-1).scatter_add_(0, self.index, -hard.flatten())
        if target is not None:
            values.addcmul_(target, (plane - hard)[:, :, None], value=-1)
        return self.resize.transposed(values.transpose(1, 2))


_kept = threading.local()


def _scratch(name: str, shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor of uninitialized memory for this step, of the dtype of `like`.

    A thread reuses its memory, because new pages cost more time than the sums.
    """
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
