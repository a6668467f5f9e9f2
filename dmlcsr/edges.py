"""Binary and category edge targets, computed from a label map (docs/method.md, section 3).

They are computed after augmentation, on the device that trains, so they are never stored or interpolated.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dmlcsr.taxonomy import IGNORE


def edge_targets(label: Tensor, radius: int = 1, ignore: int = IGNORE) -> tuple[Tensor, Tensor]:
    """(binary, category) edges of `label` (B, H, W) or (H, W) uint8, on its device.

    A pixel is an edge if the (2 radius + 1) x (2 radius + 1) window around it, clipped at the image, holds two
    different labels other than `ignore`. Both results are uint8 of the same shape: binary is 0 or 1, category is the
    pixel's own label on an edge and 0 elsewhere. Pixels labelled `ignore` are `ignore` in both. Raises ValueError
    for another dtype, a radius below 1 or an `ignore` other than 255.
    """
    if label.dtype != torch.uint8:
        raise ValueError(f"labels must be uint8, got {label.dtype}")
    if radius < 1:
        raise ValueError(f"edge radius must be at least 1, got {radius}")
    if ignore != IGNORE:
        raise ValueError(f"the ignored label must be {IGNORE}, the largest uint8, got {ignore}")
    # In uint8, 255 + 1 wraps to 0. So ignored pixels change neither the maximum of label + 1 nor the minimum of label.
    # If the two agree, the window holds one label, or ignored pixels only (0 and 255 + 1 = 0).
    largest = _window(torch.maximum, label + 1, radius)
    smallest = _window(torch.minimum, label, radius)
    edge = largest != smallest + 1
    ignored = label == ignore
    binary = edge.to(torch.uint8).masked_fill_(ignored, ignore)
    category = (label * edge).masked_fill_(ignored, ignore)
    return binary, category


def _window(pick: Callable[..., Tensor], values: Tensor, radius: int) -> Tensor:
    """Applies `pick` (maximum or minimum) over the window around each pixel, first along rows, then along columns."""
    for dim in (-1, -2):
        size, best = values.shape[dim], values.clone()
        for shift in range(1, min(radius, size - 1) + 1):
            kept = size - shift
            pick(best.narrow(dim, shift, kept), values.narrow(dim, 0, kept), out=best.narrow(dim, shift, kept))
            pick(best.narrow(dim, 0, kept), values.narrow(dim, shift, kept), out=best.narrow(dim, 0, kept))
        values = best
    return values
