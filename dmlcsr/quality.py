"""Quality scores of label maps, computed from a model's probabilities.

The scores follow cleanlab's segmentation module (Lad and Mueller, 2023); the thresholds follow confident learning
(Northcutt et al., 2021). Images are processed in strips of rows, data sets image by image; only sums stay in memory.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmlcsr.taxonomy import Taxonomy

TEMPERATURE = 0.1
"""Temperature of the soft minimum: a lower value is closer to the worst pixel, a higher one to the mean.

The value is cleanlab's default.
"""
UNREACHABLE_THRESHOLD = 2.0
"""Threshold of a class that occurs in no label; it is above every probability."""


def looks_mirrored(label: npt.NDArray[np.uint8], taxonomy: Taxonomy) -> bool:
    """True if the left/right ids of a (H, W) uint8 label map seem to be on the wrong sides.

    Each pair of parts has one vote: is the viewer-left part to the right of its partner? Pairs with a hidden part do
    not vote. A face that is upside down looks mirrored too.
    """
    votes = 0
    for left, right in taxonomy.sides:
        columns = [np.flatnonzero(label == part) % label.shape[1] for part in (left, right)]
        if all(len(found) for found in columns):
            votes += 1 if columns[0].mean() > columns[1].mean() else -1
    return votes > 0


class LabelledPixels(NamedTuple):
    """The N labelled pixels of a strip."""

    classes: Tensor
    """(N,) int64 labels."""
    probabilities: Tensor
    """(N,) float64 probabilities that the model gives to these labels."""


def given_probabilities(label: Tensor, pred_probs: Tensor) -> LabelledPixels:
    """The probabilities `pred_probs` (K, H, W) that a model gives to the labels `label` (H, W) uint8.

    Pixels labelled outside 0..K-1 are left out.
    """
    classes = label.long()
    is_given = classes < len(pred_probs)
    found = pred_probs.gather(0, classes.clamp(max=len(pred_probs) - 1)[None])[0]
    return LabelledPixels(classes[is_given], found[is_given].double())


class QualityScores(NamedTuple):
    """Quality scores of one label map, from 0 (wrong) to 1 (right)."""

    image: float
    classes: list[float | None]
    """One score per class, None if the label map has no pixel of it."""


@dataclass
class LabelQuality:
    """Sums for the quality scores of one label map.

    Let s be the probability of a pixel's label and T the temperature. A score is the soft minimum of s over pixels,
    sum(s exp((1 - s) / T)) / sum(exp((1 - s) / T)): over all pixels for the image, over its own for a class.
    """

    num_classes: int
    weights: Tensor = field(init=False)
    """(K,) float64 sums of exp((1 - s) / T)."""
    weighted: Tensor = field(init=False)
    """(K,) float64 sums of s exp((1 - s) / T)."""

    def __post_init__(self) -> None:
        self.weights = torch.zeros(self.num_classes, dtype=torch.float64)
        self.weighted = torch.zeros_like(self.weights)

    def add(self, given: LabelledPixels) -> None:
        """Adds the pixels of one strip."""
        weights = ((1 - given.probabilities) / TEMPERATURE).exp()
        for total, values in ((self.weights, weights), (self.weighted, weights * given.probabilities)):
            total += torch.bincount(given.classes, values, self.num_classes).cpu()

    def scores(self) -> QualityScores | None:
        """The scores, or None if no pixel has a label."""
        if not self.weights.any():
            return None
        ratios = (self.weighted / self.weights).tolist()
        shown = [score if weight else None for score, weight in zip(ratios, self.weights.tolist(), strict=True)]
        return QualityScores(float(self.weighted.sum() / self.weights.sum()), shown)


@dataclass
class ConfidenceSums:
    """Sums over a data set for the thresholds of confident learning; `a += b` adds the sums of another part."""

    total: npt.NDArray[np.float64]
    """(K,) sums of the probability of class k over the pixels labelled k."""
    num_pixels: npt.NDArray[np.int64]
    """(K,) numbers of pixels labelled k."""

    @classmethod
    def zeros(cls, num_classes: int) -> "ConfidenceSums":
        """The sums over no pixels."""
        return cls(np.zeros(num_classes), np.zeros(num_classes, np.int64))

    def add(self, given: LabelledPixels) -> None:
        """Adds the pixels of one strip."""
        self.total += torch.bincount(given.classes, given.probabilities, len(self.total)).cpu().numpy()
        self.num_pixels += torch.bincount(given.classes, minlength=len(self.total)).cpu().numpy()

    def __iadd__(self, other: "ConfidenceSums") -> "ConfidenceSums":
        self.total += other.total
        self.num_pixels += other.num_pixels
        return self

    def thresholds(self) -> list[float]:
        """The mean probability of each class over the pixels labelled with it.

        A class that occurs in no label gets UNREACHABLE_THRESHOLD.
        """
        means = self.total / np.maximum(self.num_pixels, 1)
        return [
            float(mean) if shown else UNREACHABLE_THRESHOLD for mean, shown in zip(means, self.num_pixels, strict=True)
        ]


def confident_classes(pred_probs: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable class of each pixel among those that reach their threshold.

    `pred_probs` is (K, H, W), `thresholds` (K,). Returns the class's probability and its id, both (H, W); the
    probability is -1 if no class reaches its threshold.
    """
    probability, classes = torch.where(pred_probs >= thresholds[:, None, None], pred_probs, -1.0).max(0)
    return probability, classes


def pair_counts(before: Tensor, after: Tensor, num_classes: int) -> npt.NDArray[np.int64]:
    """(K + 1, K + 1) int64 counts of pixels by their class in two label maps of equal shape.

    Rows are the classes in `before`, columns those in `after`. The last row and column count ignored pixels.
    """
    side = num_classes + 1
    rows, columns = (labels.long().clamp(max=num_classes).flatten() for labels in (before, after))
    return torch.bincount(rows * side + columns, minlength=side**2).view(side, side).cpu().numpy()
