"""New label maps, computed from old ones and a teacher's probabilities, with statistics about both."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmlcsr.quality import (
    LabelledPixels,
    LabelQuality,
    QualityScores,
    confident_classes,
    given_probabilities,
    pair_counts,
)
from dmlcsr.taxonomy import IGNORE

Label = npt.NDArray[np.uint8]
PolicyName = Literal["replace", "blend", "confident"]
RuleName = Literal["replace", "blend", "confident", "unlabelled"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The rule that decides which pixels of a label map change.

    `replace`: every pixel takes the teacher's class.

    `blend`: a pixel takes argmax((1 - a) p + a onehot(label)) with a = `label_weight`. An ignored pixel takes the
    teacher's class.

    `confident`: let t_c be the mean predicted probability of class c over the pixels labelled c. A pixel labelled y
    changes to class k if k is the most probable class with p_k >= t_k, and p_k - p_y >= t_y. So a label changes if
    the teacher prefers another class clearly, compared with its usual confidence. Ignored pixels stay ignored.
    """

    name: PolicyName
    label_weight: float = 0.0
    thresholds: tuple[float, ...] = ()
    """Threshold t_c of each class; used by `confident` only."""

    def new_classes(self, label: Tensor, given: LabelledPixels, strip: "_Strip") -> Tensor:
        """(H, W) uint8 new labels of a strip.

        `label` (H, W) uint8 holds the old labels, which may include ignored pixels; `given` holds the others.
        """
        is_given = label < len(strip.probs)
        if self.name == "confident":
            thresholds = strip.probs.new_tensor(self.thresholds)
            probability, guess = confident_classes(strip.probs, thresholds)
            changes = torch.zeros_like(is_given)
            changes[is_given] = probability[is_given] - given.probabilities >= thresholds[given.classes]
            return torch.where(changes, guess.to(torch.uint8), label)
        if self.name == "replace":
            return strip.teacher
        a = self.label_weight
        keep = torch.zeros_like(is_given)
        keep[is_given] = (1 - a) * strip.highest[is_given] <= (1 - a) * given.probabilities + a
        return torch.where(keep, label, strip.teacher)


class _Strip(NamedTuple):
    """The teacher's output for some rows of an image."""

    probs: Tensor
    """(K, H, W) probabilities."""
    highest: Tensor
    """(H, W) highest probability of each pixel."""
    teacher: Tensor
    """(H, W) uint8 id of the class with the highest probability."""


@dataclass(frozen=True)
class Refined:
    """The result of relabelling one image."""

    label: Label
    """(H, W) uint8 ids."""
    rule: RuleName
    quality: QualityScores | None
    """Quality scores of the old label; None if it has no labelled pixel."""
    confidence: float
    """Mean over pixels of the teacher's highest probability."""
    pairs: npt.NDArray[np.int64]
    """(K + 1, K + 1) numbers of pixels by class before (rows) and after (columns).

    The last row and column count ignored pixels; if the image had no label, all its pixels count as ignored.
    """

    @property
    def num_changed_pixels(self) -> int:
        """The number of pixels whose class changed."""
        return int(self.pairs.sum() - np.trace(self.pairs))


def refine(strips: Iterable[tuple[slice, Tensor]], label: Label | None, policy: Policy) -> Refined:
    """Computes the new label of one image.

    `strips` yields rows and their probabilities (K, rows, W). `label` is (H, W) uint8; if it is None, the new label is
    the teacher's. Raises ValueError if the image has no pixel or a probability is not finite.
    """
    parts: list[Tensor] = []
    confidence, quality, pairs = 0.0, None, None
    for rows, probs in strips:
        highest, teacher = probs.max(0)
        strip = _Strip(probs, highest, teacher.to(torch.uint8))
        confidence += float(highest.sum())
        quality = quality or LabelQuality(len(probs))
        if label is None:
            old, new = torch.full_like(strip.teacher, IGNORE), strip.teacher
        else:
            old = torch.from_numpy(label[rows]).to(probs.device)
            given = given_probabilities(old, probs)
            quality.add(given)
            new = policy.new_classes(old, given, strip)
        counts = pair_counts(old, new, len(probs))
        pairs = counts if pairs is None else pairs + counts
        parts.append(new)
    if pairs is None or quality is None:
        raise ValueError("the image has no pixels")
    if not np.isfinite(confidence):
        raise ValueError("the model's output is not finite")
    merged = torch.cat(parts).cpu().numpy()
    rule: RuleName = "unlabelled" if label is None else policy.name
    return Refined(merged, rule, quality.scores(), confidence / merged.size, pairs)
