"""The loss of DML-CSR (CVPR 2022): from logits at any stride to the terms of one differentiable scalar.

The formulas are in docs/method.md, section 4. This module turns edge targets, class weights and means into one weight
per pixel; `softmax_terms` evaluates the terms and their gradient in closed form. A term without such a gradient can be
added to `total` as `weight * term`, computed by ordinary PyTorch operations on the logits. No function of this module
waits for a CUDA device.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dmlcsr.edges import edge_targets
from dmlcsr.losses.softmax_terms import weighted_terms
from dmlcsr.losses.terms import LOVASZ, CrossEntropyTerm
from dmlcsr.taxonomy import IGNORE


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the terms in the total."""

    parsing: float
    """0.5 Lovasz-softmax + 0.5 cross-entropy (or distillation) of the parsing."""
    binary_edge: float
    """Cross-entropy (or distillation) of the binary edge."""
    category_edge: float
    """Cross-entropy (or distillation) of the category edge."""
    binary_edge_attention: float
    """Parsing cross-entropy on edge pixels."""
    category_edge_attention: float
    """Parsing cross-entropy on edge pixels of foreground classes."""


PAPER_WEIGHTS = LossWeights(
    parsing=1.0, binary_edge=1.0, category_edge=0.1, binary_edge_attention=4.0, category_edge_attention=1.0
)
"""The weights of the paper."""
_CROSS_ENTROPY = "cross_entropy"
"""Name of the parsing cross-entropy, one half of the parsing term; Lovasz-softmax is the other half."""


_TINY = torch.finfo(torch.float32).tiny
"""Replaces a sum of weights that is zero, as a divisor of weights that are zero."""


class LossTerms(NamedTuple):
    """Scalars on the device of the label. Only `total` is differentiable; the others are its terms before weighting."""

    total: Tensor
    parsing: Tensor
    binary_edge: Tensor
    category_edge: Tensor
    binary_edge_attention: Tensor
    category_edge_attention: Tensor


class DistillationTargets(NamedTuple):
    """Probabilities (B, C, H, W) of each task at label size. A task whose target is None learns from its label."""

    parsing: Tensor | None = None
    binary_edge: Tensor | None = None
    category_edge: Tensor | None = None


def dml_loss(
    logits: tuple[Tensor, Tensor, Tensor],
    label: Tensor,
    weights: LossWeights,
    *,
    edge_radius: int = 1,
    targets: tuple[Tensor | None, Tensor | None, Tensor | None] | None = None,
) -> LossTerms:
    """The loss of a batch, with self-distillation if `targets` are given.

    `logits`: parsing (B, C, h, w), binary edge (B, 2, h, w), category edge (B, C, h, w), any float type. They are
    upsampled to the label's size (bilinear, align_corners) and reduced in float32 or float64, also under autocast.
    `label`: (B, H, W) uint8, below C or 255 = ignore. `targets`: see `DistillationTargets`. The target of a task
    replaces its cross-entropy by KL(target || softmax), a mean over valid pixels without class weights.
    A term without any pixel is zero and its gradient is finite. Raises ValueError if the shapes do not fit together.
    """
    _check(logits, label)
    soft = DistillationTargets(*(targets or ()))
    with torch.autocast(label.device.type, enabled=False):
        binary, category = edge_targets(label, edge_radius)
        half = 0.5 * weights.parsing
        parsing_total, parsing = weighted_terms(
            logits[0], label, _parsing_terms(label, binary, category, weights), target=soft.parsing, lovasz_weight=half
        )
        plane = _edge_weights(binary, binary_weights(binary), soft.binary_edge)
        term = CrossEntropyTerm("binary_edge", plane, weights.binary_edge, is_distilled=True)
        binary_total, binary_edge = weighted_terms(logits[1], binary, [term], target=soft.binary_edge)
        plane = _edge_weights(category, category_weights(category, logits[2].shape[1]), soft.category_edge)
        term = CrossEntropyTerm("category_edge", plane, weights.category_edge, is_distilled=True)
        category_total, category_edge = weighted_terms(logits[2], category, [term], target=soft.category_edge)
    terms = parsing | binary_edge | category_edge
    halves = terms.pop(_CROSS_ENTROPY) + terms.pop(LOVASZ)
    return LossTerms(total=parsing_total + binary_total + category_total, parsing=0.5 * halves, **terms)


def _parsing_terms(label: Tensor, binary: Tensor, category: Tensor, weights: LossWeights) -> list[CrossEntropyTerm]:
    """The cross-entropy terms of the parsing logits. The two attention terms always use the label, never a target."""
    edge = binary == 1
    everywhere, on_edges = _mean(label != IGNORE), _mean_per_image(edge)
    on_foreground_edges = _mean_per_image(edge & (category != 0))
    return [
        CrossEntropyTerm(_CROSS_ENTROPY, everywhere, 0.5 * weights.parsing, is_distilled=True),
        CrossEntropyTerm("binary_edge_attention", on_edges, weights.binary_edge_attention),
        CrossEntropyTerm("category_edge_attention", on_foreground_edges, weights.category_edge_attention),
    ]


def _check(logits: tuple[Tensor, Tensor, Tensor], label: Tensor) -> None:
    if label.dim() != 3 or label.dtype != torch.uint8:
        raise ValueError(f"labels must be uint8 of shape (B, H, W), got {label.dtype} {tuple(label.shape)}")
    for name, task in zip(("parsing", "binary edge", "category edge"), logits, strict=True):
        if task.dim() != 4 or len(task) != len(label):
            shapes = f"{tuple(task.shape)} for labels {tuple(label.shape)}"
            raise ValueError(f"{name} logits must be (B, C, h, w) with the labels' batch size, got {shapes}")


# A plane holds the factor of each pixel's cross-entropy: float32, zero on ignored pixels.


def _mean(mask: Tensor) -> Tensor:
    """The plane (B, H, W) that takes the mean over the pixels of a mask; zeros if the mask is empty."""
    return mask / mask.sum().clamp(min=1)


def _mean_per_image(mask: Tensor) -> Tensor:
    """The plane (B, H, W) that takes the mean over each image's pixels in the mask, then over all images.

    An image without a pixel in the mask contributes 0.
    """
    return mask / (mask.sum((1, 2), keepdim=True).clamp(min=1) * len(mask))


def _edge_weights(edge: Tensor, class_weights: Tensor, target: Tensor | None) -> Tensor:
    """The plane (B, H, W) that takes a mean over valid pixels: class-weighted, or unweighted if a target is given."""
    if target is not None:
        return _mean(edge != IGNORE)
    table = class_weights.new_zeros(256)
    table[: len(class_weights)] = class_weights
    plane = table.index_select(0, edge.flatten().int()).view(edge.shape)
    return plane / plane.sum().clamp(min=_TINY)


def binary_weights(binary: Tensor) -> Tensor:
    """(2,) weights [pos, neg] / (pos + neg) of non-edge and edge pixels, which give both the same total weight."""
    counts = _count_classes(binary, 2)
    return counts.flip(0) / counts.sum().clamp(min=1)


def category_weights(category: Tensor, num_classes: int) -> Tensor:
    """(C,) weights 1 - n_k / n: a class with more pixels has a smaller weight."""
    counts = _count_classes(category, num_classes)
    return 1 - counts / counts.sum().clamp(min=1)


def _count_classes(label: Tensor, num_classes: int) -> Tensor:
    """(C,) float32 pixel counts. On CUDA, classes are compared, because torch.bincount waits for the device."""
    if label.is_cuda:
        ids = torch.arange(num_classes, device=label.device, dtype=label.dtype)
        return (label.flatten() == ids[:, None]).sum(1).float()
    rest = label[label != 0]  # bincount is slow on long runs of one value, and most pixels are "no edge"
    counts = torch.bincount(rest, minlength=256)
    counts[0] = label.numel() - len(rest)
    return counts[:num_classes].float()
