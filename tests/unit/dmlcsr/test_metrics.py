import json

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dmlcsr.metrics import Counts, boundary_band, confusion_matrix, scores
from dmlcsr.taxonomy import HELEN, LAPA, Taxonomy
from tests.support.commands import DATA
from tests.support.cuda import PretendedCuda

GOLDEN = dict(np.load(DATA / "losses_metrics.npz"))
SIX = Taxonomy("six", tuple("abcdef"), ((0, 0, 0),) * 6)
Ids = npt.NDArray[np.uint8]


def count(label: Ids, prediction: Ids, num_classes: int) -> Counts:
    counts = Counts(num_classes)
    counts.add(label, prediction)
    return counts


def blobs(seed: int, num_classes: int, height: int = 90, width: int = 70) -> Ids:
    noise = np.random.default_rng(seed).normal(size=(9, 7, num_classes)).astype(np.float32)
    field = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return field.argmax(-1).astype(np.uint8)


def test_confusion_and_scores_equal_the_reference() -> None:
    counts = Counts(6)
    for label, prediction in zip(GOLDEN["gt"], GOLDEN["pred"], strict=True):
        counts.add(label, prediction)
    assert np.array_equal(counts.confusion, GOLDEN["confusion"])
    result = scores(counts, SIX)
    assert list(result.f1.values()) == pytest.approx(GOLDEN["f1"].tolist(), abs=1e-12)
    assert list(result.iou.values()) == pytest.approx(GOLDEN["iou"].tolist(), abs=1e-12)
    assert result.mean_f1 == pytest.approx(float(GOLDEN["mean_f1_foreground"]), abs=1e-12)
    assert result.num_images == 3


@pytest.mark.parametrize("kind", [Tensor, PretendedCuda])
def test_both_ways_to_count_the_confusion_agree(kind: type[Tensor]) -> None:
    label, prediction = blobs(1, 19), blobs(2, 19)
    label[:20, 30:] = 255
    truth, predicted = (torch.from_numpy(ids).as_subclass(kind) for ids in (label, prediction))
    matrix = confusion_matrix(truth, predicted, 19)
    assert np.array_equal(matrix.numpy(), count(label, prediction, 19).confusion)


def test_a_perfect_prediction_scores_one() -> None:
    label = blobs(0, 11)
    label[:5] = 255
    prediction = label.copy()
    prediction[:5] = 3
    result = scores(count(label, prediction, 11), HELEN)
    means = [result.mean_f1, result.mean_iou, result.mean_boundary_iou, result.pixel_accuracy, result.overall]
    assert means == [1.0] * 5
    assert set(result.overall_f1.values()) == {1.0}


def test_counts_add_up() -> None:
    pairs = [(blobs(i, 11), blobs(i + 10, 11)) for i in range(3)]
    together, apart = Counts(11), Counts(11)
    for label, prediction in pairs:
        together.add(label, prediction)
        apart = apart + count(label, prediction, 11)
    assert apart.to_dict() == together.to_dict()
    assert together.confusion.sum() == 3 * 90 * 70
    with pytest.raises(ValueError, match="classes"):
        Counts(2) + Counts(3)


def test_counts_survive_json() -> None:
    counts = count(blobs(0, 11), blobs(1, 11), 11)
    again = Counts.from_dict(json.loads(json.dumps(counts.to_dict())))
    assert again.to_dict() == counts.to_dict()
    assert json.loads(json.dumps(scores(again, LAPA).to_dict()))["mean_f1"] == scores(counts, LAPA).mean_f1


def test_absent_classes_are_never_counted() -> None:
    label, prediction = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    label[5:10, 5:10] = prediction[5:10, 5:10] = 1
    prediction[15, 15] = 4  # predicted, but absent in the ground truth
    result = scores(count(label, prediction, 11), HELEN)
    assert result.f1["left_eye"] is None
    assert result.iou["left_eye"] is None
    assert result.boundary_iou["left_eye"] is None
    assert [result.mean_f1, result.mean_iou, result.mean_boundary_iou] == [1.0, 1.0, 1.0]
    assert result.overall is None
    assert set(result.overall_f1.values()) == {None}


def test_nothing_counted_has_no_scores() -> None:
    result = scores(count(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8), 11), LAPA)
    assert result.mean_f1 is result.pixel_accuracy is result.overall is None
    assert result.num_images == 1


def test_swapped_brows_cost_nothing_overall() -> None:
    label = blobs(3, 11)
    swapped = np.where(label == 2, 3, np.where(label == 3, 2, label)).astype(np.uint8)
    result = scores(count(label, swapped, 11), HELEN)
    assert result.f1["left_brow"] == 0.0
    assert result.overall == 1.0
    assert result.overall_f1 == {"brows": 1.0, "eyes": 1.0, "nose": 1.0, "mouth": 1.0}


def test_overall_pools_the_groups() -> None:
    label, prediction = np.zeros((1, 10), np.uint8), np.zeros((1, 10), np.uint8)
    label[0] = [0, 1, 2, 3, 6, 7, 8, 9, 4, 10]
    prediction[0] = [6, 1, 2, 0, 6, 8, 9, 0, 5, 10]
    result = scores(count(label, prediction, 11), HELEN)
    # Hits: brow 1 of 2, eye 1, nose 1, mouth 2 of 3; 7 in the truth, 6 predicted (one nose on background).
    assert result.overall == pytest.approx(2 * 5 / (7 + 6))
    assert result.overall_f1["mouth"] == pytest.approx(2 * 2 / (3 + 2))


@pytest.mark.parametrize("shape", [(90, 70), (30, 31), (5, 200)])
def test_boundary_bands_equal_erosion_class_by_class(shape: tuple[int, int]) -> None:
    ids = blobs(4, 5, *shape)
    ids[:3, :3] = 255
    expected = np.zeros(shape, bool)
    for k in range(5):
        mask = np.pad((ids == k).astype(np.uint8), 1)
        width = max(1, round(0.02 * float(np.hypot(*shape))))
        expected |= (mask - cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=width))[1:-1, 1:-1] > 0
    assert np.array_equal(boundary_band(ids), expected)


def test_boundary_iou_of_a_shifted_square() -> None:
    label, prediction = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    label[10:20, 10:20], prediction[10:20, 11:21] = 1, 1
    counts = count(label, prediction, 2)  # the band is one pixel wide, 36 pixels a square, 18 of them in common
    assert counts.boundary_intersection[1] == 18
    assert counts.boundary_union[1] == 72 - 18


def test_ignored_pixels_count_nowhere() -> None:
    label, prediction = blobs(5, 4), blobs(6, 4)
    label[20:40] = 255
    changed = prediction.copy()
    changed[20:40] = 1
    assert count(label, prediction, 4).to_dict() == count(label, changed, 4).to_dict()
    assert count(label, prediction, 4).confusion.sum() == (label != 255).sum()


def test_maps_that_do_not_fit_are_refused() -> None:
    good = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        count(good, np.zeros((4, 5), np.uint8), 3)
    with pytest.raises(ValueError, match="prediction holds id 3"):
        count(good, np.full((4, 4), 3, np.uint8), 3)
    with pytest.raises(ValueError, match="prediction holds id -1"):
        count(good, np.full((4, 4), -1, np.int64), 3)
    with pytest.raises(ValueError, match="label holds id 7"):
        count(np.full((4, 4), 7, np.uint8), good, 3)
    with pytest.raises(ValueError, match="lapa"):
        scores(Counts(3), LAPA)
