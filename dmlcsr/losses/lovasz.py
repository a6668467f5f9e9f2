"""Lovasz-softmax loss (Berman et al., CVPR 2018) with its gradient in closed form.

For one class with G foreground pixels the errors (1 - p on the foreground, p elsewhere) are sorted from large
to small and weighted with the increments of the Jaccard loss J = 1 - (G - m) / (G + n) after m foreground and n
background pixels. The increments, and so the gradient with respect to p, have closed forms:

    foreground pixel: 1 / (G + n)          background pixel: (G - m) / ((G + n) (G + n - 1))

So one sort gives the loss and its gradient. The increments are zero below the smallest foreground error
(m = G). Therefore most background pixels need no sorting early in a training.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dmlcsr.taxonomy import IGNORE

_Floats = npt.NDArray[Any]
_Mask = npt.NDArray[np.bool_]
_FOREGROUND = np.int64(1 << 31)
"""Bit of a sort key that marks a foreground pixel."""
_PIXEL = np.int64((1 << 31) - 1)
"""Bits of a sort key that hold the pixel's index."""


def lovasz_softmax(logits: Tensor, label: Tensor, ignore: int = IGNORE) -> Tensor:
    """The scalar Lovasz-softmax loss, pooled over the batch and averaged over the classes present.

    `logits`: (B, C, H, W) float, before the softmax. `label`: (B, H, W) integer; pixels with the label `ignore` are
    left out. If every pixel is ignored, the loss and its gradient are zero. Differentiable once.
    """
    probs = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return cast(Tensor, _LovaszOfProbabilities.apply(probs.softmax(1), label, ignore))  # type: ignore[no-untyped-call]


class _LovaszOfProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, probs: Tensor, label: Tensor, ignore: int) -> Tensor:
        loss, gradient = lovasz_and_gradient(probs, label, ignore)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grad_output, None, None


def lovasz_and_gradient(probs: Tensor, label: Tensor, ignore: int = IGNORE) -> tuple[Tensor, Tensor]:
    """(loss, d loss / d probs) for `probs` (B, C, H, W) in 0..1 and `label` (B, H, W), computed without autograd.

    The loss is a scalar. The gradient has the shape of `probs` and is laid out class by class. On CUDA this never waits
    for the device; on the CPU it uses as many threads as torch does.
    """
    return (lovasz_by_batched_sort if probs.is_cuda else lovasz_by_class)(probs.detach(), label, ignore)


def lovasz_by_batched_sort(probs: Tensor, label: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """Sorts the (C, B*H*W) errors of all classes in one call, which is the fastest way on a GPU."""
    batch, num_classes, height, width = probs.shape
    flat, ids = probs.transpose(0, 1).flatten(1), torch.arange(num_classes, device=probs.device, dtype=label.dtype)
    foreground = label.flatten() == ids[:, None]
    total = foreground.sum(1, keepdim=True, dtype=torch.int32)
    errors = torch.where(foreground, 1 - flat, flat)
    errors, order = errors.masked_fill_((label == ignore).flatten(), -1.0).sort(dim=1, descending=True)
    hit = foreground.gather(1, order)
    remaining = total - hit.cumsum(1, dtype=torch.int32)
    union = torch.arange(1, errors.shape[1] + 1, device=probs.device, dtype=torch.int32) + remaining
    # Ignored pixels come last, where the increments are zero; so do all pixels of an absent class.
    increment = torch.where(hit, 1.0, remaining / (union - 1).clamp_(min=1)).to(probs).div_(union.clamp_(min=1))
    increment /= (total > 0).sum().clamp(min=1)
    loss = errors.mul_(increment).sum()
    increment = torch.where(hit, -increment, increment)
    gradient = torch.empty_like(increment).scatter_(1, order, increment)
    return loss, gradient.view(num_classes, batch, height, width).transpose(0, 1)


def lovasz_by_class(probs: Tensor, label: Tensor, ignore: int, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sorts one class at a time with NumPy, whose vectorized sort of int64 is several times faster than torch's.

    The gradient is a view of `out`, contiguous (C, B, H, W), or a new tensor if `out` is None.
    """
    batch, num_classes, height, width = probs.shape
    values, labels = probs.numpy(), label.numpy()
    ignored = np.flatnonzero(labels == ignore)
    masks = {k: (labels == k).reshape(-1) for k in range(num_classes) if k != ignore}
    present = [k for k, mask in masks.items() if mask.any()]
    out = probs.new_zeros(num_classes, batch, height, width) if out is None else out.zero_()
    gradient = out.view(num_classes, -1).numpy()

    def one_class(k: int) -> float:
        errors = np.array(values[:, k], order="C").reshape(-1)
        errors[ignored] = 0.0
        return _class_loss(errors, masks[k], 1 / len(present), gradient[k])

    with _mapper(min(torch.get_num_threads(), len(present))) as run:
        loss = probs.new_tensor(sum(run(one_class, present)))
    return loss, out.transpose(0, 1)


@contextmanager
def _mapper(num_threads: int) -> Iterator[Any]:
    """`map`, over a pool of threads if `num_threads` > 1. Threads help because NumPy releases the interpreter lock."""
    if num_threads <= 1:
        yield map
        return
    with ThreadPoolExecutor(num_threads) as pool:
        yield pool.map


def _class_loss(errors: _Floats, mask: _Mask, scale: float, gradient: _Floats) -> float:
    """`scale` times the loss of one class. Writes its derivative by p into `gradient` (P,), which must hold zeros.

    `errors` (P,) holds p, and 0 on ignored pixels; it is overwritten. `mask` (P,) is True on the class's pixels.
    """
    foreground = np.flatnonzero(mask)
    errors[foreground] = 1.0 - errors[foreground]
    key = _sort_keys(errors, mask, errors[foreground].min())
    key.sort()
    hit = (key & _FOREGROUND) != 0
    # Errors are sorted from small to large. `remaining` counts the foreground up to a pixel: G - m, or G - m + 1 if the
    # pixel itself is foreground. `union` is G + n, or G + n + 1 if the pixel is foreground.
    remaining = np.cumsum(hit, dtype=np.int32).astype(errors.dtype)
    union = np.arange(len(key), 0, -1, dtype=errors.dtype)
    union += remaining
    increment = np.where(hit, union, remaining)
    union *= union - 1
    increment /= union
    increment *= scale
    pixel = key & _PIXEL
    loss = float(np.dot(increment, errors[pixel]))
    gradient[pixel] = np.where(hit, -increment, increment)
    return loss


def _sort_keys(errors: _Floats, mask: _Mask, smallest: Any) -> npt.NDArray[np.int64]:
    """(Q,) int64 keys in the order of the errors: float32 bits, a foreground bit, then 31 bits of pixel index.

    Bits of non-negative floats sort like the floats. Background pixels below `smallest`, the smallest foreground error,
    are left out, because they have no loss. On a tie the foreground comes last, so ignored pixels have no loss either.
    """
    needed = errors >= smallest
    few = np.count_nonzero(needed) < 0.9 * len(errors)  # otherwise selecting them costs more than sorting all
    pixel = np.flatnonzero(needed) if few else np.arange(len(errors))
    some = pixel if few else slice(None)
    key = errors[some].astype(np.float32, copy=False).view(np.int32).astype(np.int64)
    key <<= 32
    key |= pixel
    key |= np.where(mask[some], _FOREGROUND, 0)
    return key
