import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dmlcsr.quality import UNREACHABLE_THRESHOLD, LabelQuality, given_probabilities
from dmlcsr.refine import Policy, refine

CLASSES = 4
labels = arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 3, 255]))
seeds = st.integers(0, 2**32)


def probabilities(seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (CLASSES, 5, 6))).softmax(0)


def strips(probs, step=2):
    return [(slice(start, start + step), probs[:, start : start + step]) for start in range(0, probs.shape[1], step)]


@settings(deadline=None)
@given(labels, seeds)
def test_replace_takes_the_most_probable_class_everywhere(label, seed):
    probs = probabilities(seed)
    refined = refine(strips(probs), label, Policy(name="replace"))
    assert (refined.label == probs.argmax(0).numpy()).all() and refined.rule == "replace"
    assert refined.num_changed_pixels == (refined.label != label).sum()
    assert refined.confidence == pytest.approx(float(probs.max(0).values.mean()))


@settings(deadline=None)
@given(labels, seeds, st.floats(0, 0.49))
def test_blend_is_the_argmax_of_the_mixture(label, seed, a):
    probs = probabilities(seed)
    hard = np.eye(CLASSES + 1)[np.minimum(label, CLASSES)][..., :CLASSES].transpose(2, 0, 1)
    mixture = (1 - a) * probs.numpy() + a * hard
    assert (refine(strips(probs), label, Policy(name="blend", label_weight=a)).label == mixture.argmax(0)).all()


@settings(deadline=None)
@given(labels, seeds, st.lists(st.floats(0.05, 1), min_size=CLASSES, max_size=CLASSES))
def test_suspect_changes_only_pixels_that_another_class_claims_surely(label, seed, thresholds):
    probs = probabilities(seed)
    refined = refine(strips(probs), label, Policy(name="confident", thresholds=tuple(thresholds)))
    reached = np.where(probs.numpy() >= np.array(thresholds)[:, None, None], probs.numpy(), -1)
    given_class = np.minimum(label, CLASSES - 1)
    lead = reached.max(0) - np.take_along_axis(probs.numpy(), given_class[None].astype(int), 0)[0]
    expected = np.where((label < CLASSES) & (lead >= np.array(thresholds)[given_class]), reached.argmax(0), label)
    assert (refined.label == expected).all()


def test_without_labels_no_pixel_is_suspect_and_rows_take_the_teachers():
    probs = probabilities(0)
    policy = Policy(name="confident", thresholds=(UNREACHABLE_THRESHOLD,) * CLASSES)
    label = np.full((5, 6), 255, np.uint8)
    assert (refine(strips(probs), label, policy).label == 255).all()
    refined = refine(strips(probs), None, policy)
    assert (refined.label == probs.argmax(0).numpy()).all()
    assert (refined.rule, refined.quality) == ("unlabelled", None)
    assert refined.pairs[CLASSES].sum() == 30 == refined.num_changed_pixels


def test_how_an_image_is_cut_into_strips_changes_nothing():
    label = np.random.default_rng(1).integers(0, CLASSES, (5, 6)).astype(np.uint8)
    whole, cut = (
        refine(strips(probabilities(1), step), label, Policy(name="blend", label_weight=0.2)) for step in (5, 1)
    )
    assert (whole.label == cut.label).all() and (whole.pairs == cut.pairs).all()
    assert whole.quality.image == pytest.approx(cut.quality.image, abs=1e-12)


def test_a_prediction_that_is_not_finite_is_refused():
    probs = probabilities(0)
    probs[:, 2, 2] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        refine(strips(probs), None, Policy(name="replace"))


@settings(deadline=None)
@given(labels, seeds)
def test_the_score_is_of_the_label_before_whatever_it_becomes(label, seed):
    probs = probabilities(seed)
    scored = LabelQuality(CLASSES)
    scored.add(given_probabilities(torch.from_numpy(label), probs))
    for policy in (Policy(name="replace"), Policy(name="blend", label_weight=0.3)):
        quality, expected = refine(strips(probs), label, policy).quality, scored.scores()
        assert (quality is None) == (expected is None) == (label == 255).all()
        assert quality is None or quality.image == pytest.approx(expected.image, abs=1e-12)


@settings(deadline=None)
@given(labels, seeds)
def test_confident_leaves_every_ignored_pixel_ignored(label, seed):
    policy = Policy(name="confident", thresholds=(0.1,) * CLASSES)
    refined = refine(strips(probabilities(seed)), label, policy)
    assert ((refined.label == 255) == (label == 255)).all()
