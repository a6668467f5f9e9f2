"""New label maps from old ones and a teacher's probabilities, with what is to be said about both."""

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
    """Which pixels of a label change.

    `replace`: every pixel takes the teacher's class. `blend`: a pixel takes argmax((1 - a) teacher + a onehot(label)),
    a = `label_weight`; an ignored pixel has no label and takes the teacher's class. `confident`: let t_c be the mean
    probability of class c over the pixels labelled c. A pixel labelled y changes to class k if k is the most probable
    class with p_k >= t_k, and p_k - p_y >= t_y; ignored pixels stay.
    """

    name: PolicyName
    label_weight: float = 0.0
    thresholds: tuple[float, ...] = ()
    """One for each class, for `confident`."""

    def new_classes(self, label: Tensor, given: LabelledPixels, strip: "_Strip") -> Tensor:
        """(H, W) uint8 from the strip's `label` (H, W) uint8, of which a part may be ignored; `given` is the rest."""
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
    """Probabilities (K, H, W), the highest of each pixel (H, W), and whose it is (H, W) uint8."""

    probs: Tensor
    highest: Tensor
    teacher: Tensor


@dataclass(frozen=True)
class Refined:
    """What became of one label map."""

    label: Label
    """(H, W) uint8 ids."""
    rule: RuleName
    quality: QualityScores | None
    """Of the label before; None where there was none."""
    confidence: float
    """Mean over pixels of the teacher's highest probability."""
    pairs: npt.NDArray[np.int64]
    """(K + 1, K + 1) pixels by class before and after; the last stands for ignored, and for no label at all."""

    @property
    def num_changed_pixels(self) -> int:
        """Pixels that changed."""
        return int(self.pairs.sum() - np.trace(self.pairs))


def refine(strips: Iterable[tuple[slice, Tensor]], label: Label | None, policy: Policy) -> Refined:
    """The new label of an image whose probabilities come in strips: rows, (K, rows, W). No label: the teacher's.

    Raises ValueError where a probability is not finite.
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
        raise ValueError("an image without a pixel")
    if not np.isfinite(confidence):
        raise ValueError("the model's output is not finite")
    merged = torch.cat(parts).cpu().numpy()
    rule: RuleName = "unlabelled" if label is None else policy.name
    return Refined(merged, rule, quality.scores(), confidence / merged.size, pairs)
