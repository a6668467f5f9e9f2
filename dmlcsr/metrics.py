"""Face-parsing scores from pooled pixel counts (docs/method.md, section 8).

Scores are F1, IoU, boundary IoU (Cheng et al., CVPR 2021) and Helen's overall F1, at the label map's own resolution.
Counts are additive, so workers add up matrices and never gather predictions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmlcsr.taxonomy import IGNORE, Taxonomy

_BOUNDARY_SHARE = 0.02
"""Width of the boundary band as a fraction of the image diagonal (Cheng et al.)."""

_Mask = npt.NDArray[np.bool_]
_Ids = npt.NDArray[np.uint8]


class Counts:
    """Pixel counts of a set of images; `a + b` pools two sets.

    `confusion` is (C, C) int64; its rows are the ground truth. `boundary_intersection` and `boundary_union` are (C,)
    int64 and count pixels of the boundary bands. `num_images` counts the images.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes, self.num_images = num_classes, 0
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.boundary_intersection = np.zeros(num_classes, np.int64)
        self.boundary_union = np.zeros(num_classes, np.int64)

    def add(self, label: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> None:
        """Counts one image: two integer maps (H, W) of equal size. Pixels labelled 255 are ignored.

        Raises ValueError for other shapes and for ids outside 0..C-1.
        """
        if label.shape != prediction.shape or label.ndim != 2:
            raise ValueError(f"label and prediction must have one shape (H, W): {label.shape}, {prediction.shape}")
        ignored = label == IGNORE
        truth, predicted = self._checked(label, ignored, "label"), self._checked(prediction, ignored, "prediction")
        code = truth[~ignored].astype(np.int32) * self.num_classes + predicted[~ignored]
        size = self.num_classes**2
        self.confusion += np.bincount(code, minlength=size).reshape(self.confusion.shape)
        truth_band, predicted_band = boundary_band(truth), boundary_band(predicted)
        common = self._count(truth, truth_band & predicted_band & (truth == predicted))
        self.boundary_intersection += common
        self.boundary_union += self._count(truth, truth_band) + self._count(predicted, predicted_band) - common
        self.num_images += 1

    def _checked(self, ids: npt.NDArray[Any], ignored: _Mask, what: str) -> _Ids:
        """A uint8 copy with 255 on ignored pixels. Raises ValueError if another pixel is outside 0..C-1."""
        wrong = ((ids < 0) | (ids >= self.num_classes)) & ~ignored
        if wrong.any():
            raise ValueError(f"{what} holds id {ids[wrong][0]}; the classes are 0..{self.num_classes - 1}")
        result = ids.astype(np.uint8)
        result[ignored] = IGNORE
        return result

    def _count(self, ids: _Ids, mask: _Mask) -> npt.NDArray[np.int64]:
        return np.bincount(ids[mask], minlength=self.num_classes).astype(np.int64)

    def __add__(self, other: "Counts") -> "Counts":
        if self.num_classes != other.num_classes:
            raise ValueError(f"cannot add counts of {self.num_classes} classes and of {other.num_classes} classes")
        result = Counts(self.num_classes)
        result.num_images = self.num_images + other.num_images
        result.confusion = self.confusion + other.confusion
        result.boundary_intersection = self.boundary_intersection + other.boundary_intersection
        result.boundary_union = self.boundary_union + other.boundary_union
        return result

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts as JSON-able lists and numbers."""
        return {
            "num_images": self.num_images,
            "confusion": self.confusion.tolist(),
            "boundary_intersection": self.boundary_intersection.tolist(),
            "boundary_union": self.boundary_union.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Counts":
        """The inverse of `to_dict`."""
        result = cls(len(values["confusion"]))
        result.num_images = int(values["num_images"])
        result.confusion = np.asarray(values["confusion"], np.int64)
        result.boundary_intersection = np.asarray(values["boundary_intersection"], np.int64)
        result.boundary_union = np.asarray(values["boundary_union"], np.int64)
        return result


def confusion_matrix(label: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """(C, C) int64 pixel counts on the device of the ids; rows are the ground truth. Never waits for a CUDA device.

    `label` and `prediction` hold uint8 ids below C, or 255 in `label` = ignore.
    """
    code = (label.int() * num_classes + prediction).masked_fill_(label == IGNORE, num_classes**2).flatten()
    if code.is_cuda:  # torch.bincount waits for the device
        counts = torch.zeros(num_classes**2 + 1, dtype=torch.int64, device=code.device)
        counts.scatter_add_(0, code.long(), torch.ones_like(code, dtype=torch.int64))
    else:
        counts = torch.bincount(code, minlength=num_classes**2 + 1)
    return counts[:-1].view(num_classes, num_classes)


def boundary_band(ids: _Ids) -> _Mask:
    """(H, W) mask of the pixels that erosion by a (2d+1) x (2d+1) square removes from their own class's mask.

    d = max(1, round(0.02 * diagonal)). Pixels outside the image and pixels labelled 255 belong to no class. A pixel
    survives the erosion if its window holds one class only, that is if the window's minimum and maximum agree. So
    two filters compute the bands of all classes.
    """
    width = max(1, round(_BOUNDARY_SHARE * float(np.hypot(*ids.shape))))
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    border: dict[str, Any] = {"borderType": cv2.BORDER_CONSTANT, "borderValue": IGNORE}
    largest = cv2.dilate(ids, kernel, **border)
    smallest = cv2.erode(ids, kernel, **border)
    return np.not_equal(largest, smallest) & np.not_equal(ids, IGNORE)


@dataclass(frozen=True)
class Scores:
    """Scores of a set of images, as fractions 0..1 (docs/method.md, section 8).

    A class without a ground-truth pixel has the score None. Means are over the foreground classes (1..C-1) that are
    present in the ground truth. `overall_f1` has one F1 per group of the taxonomy, and `overall` pools the groups; if
    the taxonomy defines no groups, they are empty and None.
    """

    num_images: int
    pixel_accuracy: float | None
    mean_f1: float | None
    mean_iou: float | None
    mean_boundary_iou: float | None
    overall: float | None
    f1: dict[str, float | None]
    iou: dict[str, float | None]
    boundary_iou: dict[str, float | None]
    overall_f1: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Returns the scores as JSON-able numbers."""
        return asdict(self)


def scores(counts: Counts, taxonomy: Taxonomy) -> Scores:
    """Computes the scores of pooled counts. Raises ValueError if the taxonomy has another number of classes."""
    if counts.num_classes != taxonomy.num_classes:
        raise ValueError(f"counts of {counts.num_classes} classes do not match taxonomy {taxonomy.name}")
    hit, truth, predicted = _hits([(k,) for k in range(counts.num_classes)], counts.confusion)
    f1 = _ratios(2 * hit, truth + predicted, truth > 0)
    iou = _ratios(hit, truth + predicted - hit, truth > 0)
    boundary = _ratios(counts.boundary_intersection, counts.boundary_union, truth > 0)
    groups = [group.ids for group in taxonomy.groups]
    group_hit, group_truth, group_predicted = _hits(groups, counts.confusion)
    group_f1 = _ratios(2 * group_hit, group_truth + group_predicted, group_truth > 0)
    return Scores(
        num_images=counts.num_images,
        pixel_accuracy=_ratio(hit.sum(), truth.sum()),
        mean_f1=_mean(f1[1:]),
        mean_iou=_mean(iou[1:]),
        mean_boundary_iou=_mean(boundary[1:]),
        overall=_ratio(2 * group_hit.sum(), group_truth.sum() + group_predicted.sum()) if group_truth.any() else None,
        f1=dict(zip(taxonomy.classes, f1, strict=True)),
        iou=dict(zip(taxonomy.classes, iou, strict=True)),
        boundary_iou=dict(zip(taxonomy.classes, boundary, strict=True)),
        overall_f1=dict(zip([group.name for group in taxonomy.groups], group_f1, strict=True)),
    )


def _hits(groups: Iterable[tuple[int, ...]], confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(3, G) true positives, ground-truth pixels and predicted pixels of each group; its classes count as one."""
    rows = [
        (confusion[np.ix_(ids, ids)].sum(), confusion[list(ids)].sum(), confusion[:, list(ids)].sum()) for ids in groups
    ]
    return np.asarray(rows, np.int64).reshape(-1, 3).T


def _ratios(parts: npt.NDArray[np.int64], wholes: npt.NDArray[np.int64], present: _Mask) -> list[float | None]:
    return [_ratio(a, b) if p else None for a, b, p in zip(parts, wholes, present, strict=True)]


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
