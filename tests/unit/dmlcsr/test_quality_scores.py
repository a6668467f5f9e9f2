"""Label quality against cleanlab, which is the oracle here and no dependency of the project."""

import numpy as np
import pytest
import torch
from cleanlab.count import compute_confident_joint, get_confident_thresholds
from cleanlab.segmentation.rank import get_label_quality_scores
from cleanlab.segmentation.summary import common_label_issues
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlcsr.quality import (
    UNREACHABLE_THRESHOLD,
    ConfidenceSums,
    LabelQuality,
    confident_classes,
    given_probabilities,
    pair_counts,
)

SIZE = (7, 9)


@st.composite
def images(draw, num_classes=4):
    """Labels (N, H, W) uint8 and probabilities (N, K, H, W) float64 that agree with them here and there."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num = draw(st.integers(1, 3))
    labels = rng.integers(0, num_classes, (num, *SIZE)).astype(np.uint8)
    logits = rng.normal(0, draw(st.floats(0.1, 6)), (num, num_classes, *SIZE))
    logits += draw(st.floats(0, 6)) * np.eye(num_classes)[labels].transpose(0, 3, 1, 2)
    return labels, torch.from_numpy(logits).softmax(1).numpy()


def quality(label, probs):
    """The scores of one image that comes in strips of two rows."""
    total = LabelQuality(len(probs))
    for start in range(0, SIZE[0], 2):
        rows = slice(start, start + 2)
        total.add(given_probabilities(torch.from_numpy(label[rows]), torch.from_numpy(probs[:, rows])))
    return total.scores()


@settings(deadline=None, max_examples=50)
@given(images())
def test_image_scores_are_cleanlabs(drawn):
    labels, probs = drawn
    expected, pixels = get_label_quality_scores(labels.astype(int), probs, verbose=False)
    for label, prob, score, pixel in zip(labels, probs, expected, pixels, strict=True):
        assert quality(label, prob).image == pytest.approx(score, abs=1e-6)
        found = given_probabilities(torch.from_numpy(label), torch.from_numpy(prob)).probabilities
        assert np.abs(found.numpy() - pixel.ravel()).max() < 1e-6


@settings(deadline=None, max_examples=50)
@given(images())
def test_class_scores_are_cleanlabs_of_the_pixels_of_the_class(drawn):
    labels, probs = drawn
    for label, prob in zip(labels, probs, strict=True):
        for number, score in enumerate(quality(label, prob).classes):
            shown = label == number
            if not shown.any():
                assert score is None
                continue
            one_row = label[shown][None, None].astype(int), prob[:, shown][None, :, None]
            (expected,), _ = get_label_quality_scores(*one_row, verbose=False)
            assert score == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(images())
def test_thresholds_and_confident_classes_are_those_of_confident_learning(drawn):
    labels, probs = drawn
    sums = ConfidenceSums.zeros(probs.shape[1])
    for label, prob in zip(labels, probs, strict=True):
        part = ConfidenceSums.zeros(probs.shape[1])
        part.add(given_probabilities(torch.from_numpy(label), torch.from_numpy(prob)))
        sums += part
    flat, flat_probs = labels.ravel().astype(int), np.moveaxis(probs, 1, -1).reshape(-1, probs.shape[1])
    shown = sums.num_pixels > 0
    assert np.allclose(np.array(sums.thresholds())[shown], get_confident_thresholds(flat, flat_probs)[shown], atol=1e-6)
    assert all(np.array(sums.thresholds())[~shown] == UNREACHABLE_THRESHOLD)

    thresholds = torch.tensor(sums.thresholds())
    probability, guess = confident_classes(torch.from_numpy(flat_probs.T[:, None]), thresholds)
    is_confident = probability >= 0
    suspect = (is_confident[0] & (guess[0] != torch.from_numpy(flat))).numpy()
    _, indices = compute_confident_joint(flat, flat_probs, return_indices_of_off_diagonals=True, calibrate=False)
    expected = np.isin(np.arange(len(flat)), indices)
    # Where several classes reach their thresholds, cleanlab takes the most probable of all classes, the paper of those.
    best_reaches = (flat_probs.max(1) >= np.array(sums.thresholds())[flat_probs.argmax(1)]) | ~is_confident[0].numpy()
    close = (np.abs(flat_probs - np.array(sums.thresholds())) < 1e-5).any(1)  # cleanlab's tolerance
    compared = (best_reaches | ((flat_probs >= np.array(sums.thresholds())).sum(1) == 1)) & ~close
    assert (suspect == expected)[compared].all()


@settings(deadline=None, max_examples=20)
@given(images())
def test_confused_pairs_are_cleanlabs(drawn):
    labels, probs = drawn
    predicted = probs.argmax(1)
    issues = predicted != labels
    counts = sum(
        pair_counts(torch.from_numpy(label), torch.from_numpy(guess), 4)
        for label, guess in zip(labels, predicted, strict=True)
    )
    table = common_label_issues(issues, labels.astype(int), probs, top=100, verbose=False)
    expected = {(int(row.given_label), int(row.predicted_label)): row.num_pixel_issues for row in table.itertuples()}
    changed = counts * (1 - np.eye(5, dtype=int))
    assert {(a, b): changed[a, b] for a, b in np.argwhere(changed).tolist()} == expected


def test_ignored_pixels_say_nothing():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, SIZE).astype(np.uint8)
    probs = torch.from_numpy(rng.normal(0, 2, (4, *SIZE))).softmax(0).numpy()
    label[:3] = 255
    assert quality(label, probs) == quality(label, probs * (np.arange(SIZE[0]) >= 3)[:, None])
    assert quality(np.full(SIZE, 255, np.uint8), probs) is None
