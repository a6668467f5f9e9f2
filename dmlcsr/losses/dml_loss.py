"""The five losses of DML-CSR (CVPR 2022) from logits at any stride to one differentiable scalar.

docs/method.md, section 4, has their formulas, and says how to add a term. Edge targets, class weights and means
become weights of pixels here; `softmax_terms` evaluates them. Nothing waits for a CUDA device.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dmlcsr.edges import edge_targets
from dmlcsr.losses.softmax_terms import weighted_terms
from dmlcsr.taxonomy import IGNORE


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the five terms in the total; Ray Tune searches them."""

    parsing: float = 1.0
    """0.5 Lovasz-softmax + 0.5 cross-entropy (or distillation) of the parsing."""
    binary_edge: float = 1.0
    """Cross-entropy of the binary edge."""
    category_edge: float = 0.1
    """Cross-entropy of the category edge."""
    binary_edge_attention: float = 4.0
    """Parsing cross-entropy on edge pixels."""
    category_edge_attention: float = 1.0
    """Parsing cross-entropy on edge pixels of foreground classes."""


class LossTerms(NamedTuple):
    """Scalars on the device. Only `total` is differentiable; the others are its terms before weighting."""

    total: Tensor
    parsing: Tensor
    binary_edge: Tensor
    category_edge: Tensor
    binary_edge_attention: Tensor
    category_edge_attention: Tensor


class DistillationTargets(NamedTuple):
    """Probabilities (B, C, H, W) at label size per task; a task without them keeps its hard label."""

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
    """The loss of a batch (with self-distillation where `targets` are given).

    `logits`: parsing (B, C, h, w), binary edge (B, 2, h, w), category edge (B, C, h, w), any float type; they are
    upsampled to the label's size (bilinear, align_corners) and reduced in float32 at least, also under autocast.
    `label`: (B, H, W) uint8, below C or 255 = ignore. `targets`: see `DistillationTargets`; a given one replaces
    the cross-entropy of its task by KL(target || softmax), a mean over valid pixels without class weights.
    A term without any pixel is a finite zero. Raises ValueError for shapes that do not belong together.
    """
    _check(logits, label)
    soft = DistillationTargets(*(targets or ()))
    with torch.autocast(label.device.type, enabled=False):
        binary, category = edge_targets(label, edge_radius)
        edge, foreground_edge = binary == 1, (binary == 1) & (category != 0)
        pixel_weights = torch.stack([_mean(label != IGNORE), _mean_per_image(edge), _mean_per_image(foreground_edge)])
        half = 0.5 * weights.parsing
        term_weights = (half, weights.binary_edge_attention, weights.category_edge_attention)
        parsing_total, (ce, attention, foreground_attention, lovasz) = weighted_terms(
            logits[0], label, pixel_weights, term_weights, target=soft.parsing, lovasz_factor=half
        )
        plane = _edge_weights(binary, binary_weights(binary), soft.binary_edge)
        binary_total, binary_terms = weighted_terms(
            logits[1], binary, plane, (weights.binary_edge,), target=soft.binary_edge
        )
        plane = _edge_weights(category, category_weights(category, logits[2].shape[1]), soft.category_edge)
        category_total, category_terms = weighted_terms(
            logits[2], category, plane, (weights.category_edge,), target=soft.category_edge
        )
    total = parsing_total + binary_total + category_total
    parsing = 0.5 * (ce + lovasz)
    return LossTerms(total, parsing, binary_terms[0], category_terms[0], attention, foreground_attention)


def _check(logits: tuple[Tensor, Tensor, Tensor], label: Tensor) -> None:
    if label.dim() != 3 or label.dtype != torch.uint8:
        raise ValueError(f"labels must be uint8 of shape (B, H, W), got {label.dtype} {tuple(label.shape)}")
    for name, task in zip(("parsing", "binary edge", "category edge"), logits, strict=True):
        if task.dim() != 4 or len(task) != len(label):
            shapes = f"{tuple(task.shape)} for labels {tuple(label.shape)}"
            raise ValueError(f"{name} logits must be (B, C, h, w) with the labels' batch size, got {shapes}")


# Planes: what each pixel's cross-entropy is multiplied with. float32; zero on ignored pixels.


def _mean(mask: Tensor) -> Tensor:
    """Mean over the pixels of a (B, H, W) mask, zero if there is none."""
    return mask / mask.sum().clamp(min=1)


def _mean_per_image(mask: Tensor) -> Tensor:
    """Mean over each image's pixels in the mask (0 where it has none), then over all images."""
    return mask / (mask.sum((1, 2), keepdim=True).clamp(min=1) * len(mask))


def _edge_weights(edge: Tensor, class_weights: Tensor, target: Tensor | None) -> Tensor:
    """(1, B, H, W): mean weighted by class, or the plain mean over valid pixels for a distilled task."""
    if target is not None:
        return _mean(edge != IGNORE)[None]
    table = class_weights.new_zeros(256)
    table[: len(class_weights)] = class_weights
    plane = table.index_select(0, edge.flatten().int()).view(edge.shape)
    total = plane.sum()
    return (plane / torch.where(total > 0, total, 1.0))[None]


def binary_weights(binary: Tensor) -> Tensor:
    """(2,) weights that give edges and the rest the same share: [pos, neg] / (pos + neg)."""
    counts = _count_classes(binary, 2)
    return counts.flip(0) / counts.sum().clamp(min=1)


def category_weights(category: Tensor, num_classes: int) -> Tensor:
    """(C,) weights 1 - n_k / n, which fall as a class's share of the pixels rises."""
    counts = _count_classes(category, num_classes)
    return 1 - counts / counts.sum().clamp(min=1)


def _count_classes(label: Tensor, num_classes: int) -> Tensor:
    """(C,) float32 pixel counts. On CUDA by comparison, since torch.bincount waits for the device."""
    if label.is_cuda:
        ids = torch.arange(num_classes, device=label.device, dtype=label.dtype)
        return (label.flatten() == ids[:, None]).sum(1).float()
    rest = label[label != 0]  # long runs of one value, as of "no edge", are slow to count one by one
    counts = torch.bincount(rest, minlength=256)
    counts[0] = label.numel() - len(rest)
    return counts[:num_classes].float()
