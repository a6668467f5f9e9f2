"""How good a label map is, by itself and against what a model says about its image.

Scores follow cleanlab's segmentation module (Lad and Mueller, 2023); what is suspect follows confident learning
(Northcutt et al., 2021). An image comes in strips of rows, a data set image by image: nothing is held but sums.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmlcsr.taxonomy import Taxonomy

TEMPERATURE = 0.1
"""Of the soft minimum: lower is closer to the worst pixel, higher to the mean."""
UNREACHABLE_THRESHOLD = 2.0
"""The threshold of a class that no label shows: no probability reaches it."""


def looks_mirrored(label: npt.NDArray[np.uint8], taxonomy: Taxonomy) -> bool:
    """Whether the left/right ids of a (H, W) uint8 label map are on the wrong sides.

    True where more pairs have their viewer-left part to the right of its partner than to its left. Pairs of which
    one part is hidden say nothing; a face that is upside down looks mirrored too.
    """
    votes = 0
    for left, right in taxonomy.sides:
        columns = [np.flatnonzero(label == part) % label.shape[1] for part in (left, right)]
        if all(len(found) for found in columns):
            votes += 1 if columns[0].mean() > columns[1].mean() else -1
    return votes > 0


class LabelledPixels(NamedTuple):
    """The pixels (N,) of a strip that have a class: which (int64), and its probability (float64)."""

    classes: Tensor
    probabilities: Tensor


def given_probabilities(label: Tensor, pred_probs: Tensor) -> LabelledPixels:
    """What a model thinks of the labels: `label` (H, W) uint8 and `pred_probs` (K, H, W).

    Pixels outside 0..K-1 are ignored.
    """
    classes = label.long()
    is_given = classes < len(pred_probs)
    found = pred_probs.gather(0, classes.clamp(max=len(pred_probs) - 1)[None])[0]
    return LabelledPixels(classes[is_given], found[is_given].double())


class QualityScores(NamedTuple):
    """Scores of one label map, 0 (wrong) to 1: of the image, and of each class or None where it has no pixel."""

    image: float
    classes: list[float | None]


@dataclass
class LabelQuality:
    """Sums of one image's label quality: the soft minimum over pixels of the probability of the given label.

    With s the probabilities and T the temperature: sum(s exp((1 - s) / T)) / sum(exp((1 - s) / T)), over all pixels
    for the image, over those of a class for the class.
    """

    num_classes: int
    weights: Tensor = field(init=False)
    """(K,) float64."""
    weighted: Tensor = field(init=False)
    """(K,) float64."""

    def __post_init__(self) -> None:
        self.weights = torch.zeros(self.num_classes, dtype=torch.float64)
        self.weighted = torch.zeros_like(self.weights)

    def add(self, given: LabelledPixels) -> None:
        weights = ((1 - given.probabilities) / TEMPERATURE).exp()
        for total, values in ((self.weights, weights), (self.weighted, weights * given.probabilities)):
            total += torch.bincount(given.classes, values, self.num_classes).cpu()

    def scores(self) -> QualityScores | None:
        """None where no pixel had a label."""
        if not self.weights.any():
            return None
        ratios = (self.weighted / self.weights).tolist()
        shown = [score if weight else None for score, weight in zip(ratios, self.weights.tolist(), strict=True)]
        return QualityScores(float(self.weighted.sum() / self.weights.sum()), shown)


@dataclass
class ConfidenceSums:
    """Sums over a data set for the thresholds of confident learning; those of two parts add up."""

    total: npt.NDArray[np.float64]
    """(K,): the probabilities of class k over all pixels labelled k."""
    num_pixels: npt.NDArray[np.int64]
    """(K,)."""

    @classmethod
    def zeros(cls, num_classes: int) -> "ConfidenceSums":
        return cls(np.zeros(num_classes), np.zeros(num_classes, np.int64))

    def add(self, given: LabelledPixels) -> None:
        self.total += torch.bincount(given.classes, given.probabilities, len(self.total)).cpu().numpy()
        self.num_pixels += torch.bincount(given.classes, minlength=len(self.total)).cpu().numpy()

    def __iadd__(self, other: "ConfidenceSums") -> "ConfidenceSums":
        self.total += other.total
        self.num_pixels += other.num_pixels
        return self

    def thresholds(self) -> list[float]:
        """The mean probability of a class where it is the label; NEVER for a class that no label shows."""
        means = self.total / np.maximum(self.num_pixels, 1)
        return [
            float(mean) if shown else UNREACHABLE_THRESHOLD for mean, shown in zip(means, self.num_pixels, strict=True)
        ]


def confident_classes(pred_probs: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Of the classes of `pred_probs` (K, H, W) that reach their thresholds (K,) the most probable.

    Its probability, -1 where none does, and which it is; both (H, W).
    """
    probability, classes = torch.where(pred_probs >= thresholds[:, None, None], pred_probs, -1.0).max(0)
    return probability, classes


def pair_counts(before: Tensor, after: Tensor, num_classes: int) -> npt.NDArray[np.int64]:
    """(K + 1, K + 1) counts of pixels by their class in two label maps of a shape; the last stands for ignored."""
    side = num_classes + 1
    rows, columns = (labels.long().clamp(max=num_classes).flatten() for labels in (before, after))
    return torch.bincount(rows * side + columns, minlength=side**2).view(side, side).cpu().numpy()
