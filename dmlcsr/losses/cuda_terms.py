"""Evaluates the terms of `softmax_terms` on a GPU: the whole batch at once, in few kernels, without waiting for them.

Tensors at label size are contiguous (B, H, C, W), as `BilinearResize` makes them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dmlcsr.losses.lovasz import lovasz_by_batched_sort
from dmlcsr.losses.terms import CrossEntropyTerm, pixel_planes
from dmlcsr.losses.upsample import BilinearResize
from dmlcsr.taxonomy import IGNORE


def evaluate(
    logits: Tensor,
    label: Tensor,
    terms: Sequence[CrossEntropyTerm],
    pixel_weights: Tensor,
    target: Tensor | None,
    lovasz_weight: float | None,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """(terms, gradient), as `cpu_terms.evaluate` returns them."""
    resize = BilinearResize.between(logits.shape[2:], label.shape[1:], logits)
    log_probs = resize(logits).transpose(1, 2).log_softmax(2)
    index = _class_index(label, logits.shape[1])
    nll = -log_probs.gather(2, index)[:, :, 0][None]
    if target is not None:
        target = target.transpose(1, 2).to(log_probs.dtype)
        soft = F.kl_div(log_probs, target, reduction="none").sum(2)
        nll = torch.stack([soft if term.is_distilled else nll[0] for term in terms])
    values = (pixel_weights * nll).flatten(1).sum(1)
    probs = log_probs.exp_()
    lovasz_gradient = None
    if lovasz_weight is not None:
        loss, lovasz_gradient = lovasz_by_batched_sort(probs.transpose(1, 2), label, IGNORE)
        values, lovasz_gradient = torch.cat([values, loss[None]]), lovasz_gradient.transpose(1, 2)
    if not with_gradient:
        return values, None
    plane, hard = pixel_planes(terms, pixel_weights, is_distilled=target is not None)
    if lovasz_weight is None or lovasz_gradient is None:
        gradient = probs.mul_(plane[:, :, None])
    else:
        weighted = lovasz_gradient.mul_(probs)
        gradient = probs.mul_((plane - lovasz_weight * weighted.sum(2))[:, :, None]).add_(weighted, alpha=lovasz_weight)
    gradient.scatter_add_(2, index, -hard[:, :, None])
    if target is not None:
        gradient.addcmul_(target, (plane - hard)[:, :, None], value=-1)
    return values, resize.transposed(gradient.transpose(1, 2))


def _class_index(label: Tensor, num_classes: int) -> Tensor:
    """(B, H, 1, W) int64 class of each pixel, 0 for ignored ones."""
    label = label.masked_fill(label == IGNORE, 0)
    torch._assert_async(label.max() < num_classes, f"labels must be below {num_classes} or {IGNORE}")
    return label.long()[:, :, None]
