"""Synthetic faces: deterministic, exact at any size, all classes; label noise that always spoils something."""

import json
from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmlcsr.synthetic import (
    CORRUPTIONS,
    SyntheticFace,
    corrupt_label,
    encode_image,
    face_id,
    is_corrupted,
    render_face,
)
from dmlcsr.synthetic.noise import _forgotten_accessory, _mirrored_ids, _missing_part
from dmlcsr.taxonomy import CELEBAMASK_HQ

NUM_FACES = 80
SIZE = 96
IDS = {name: i for i, name in enumerate(CELEBAMASK_HQ.classes)}
slow = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
indices = st.integers(0, 10**6)


@cache
def faces() -> tuple[SyntheticFace, ...]:
    return tuple(render_face(7, i, SIZE) for i in range(NUM_FACES))


@slow
@given(seed=st.integers(0, 2**31), index=indices)
def test_same_seed_and_index_give_the_same_bytes(seed: int, index: int) -> None:
    first, second = render_face(seed, index, 64), render_face(seed, index, 64)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.label, second.label)
    assert encode_image(first) == encode_image(second)
    assert (first.id, first.meta) == (second.id, second.meta)


def test_other_seeds_and_indices_give_other_faces() -> None:
    labels = [render_face(seed, index, 64).label for seed in (0, 1) for index in (0, 1, 2)]
    assert len({label.tobytes() for label in labels}) == len(labels)


@slow
@given(index=indices, size=st.integers(32, 160))
def test_image_and_label_have_the_promised_form(index: int, size: int) -> None:
    face = render_face(3, index, size)
    assert face.image.shape == (size, size, 3) and face.image.dtype == np.uint8
    assert face.label.shape == (size, size) and face.label.dtype == np.uint8
    assert face.label.max() < CELEBAMASK_HQ.num_classes
    assert face.image.std() > 5


def test_every_class_occurs_and_accessories_are_not_rare() -> None:
    present = np.array([np.bincount(f.label.ravel(), minlength=19) > 0 for f in faces()])
    rate = present.mean(axis=0)
    assert (rate > 0).all()
    for name in ("eye_g", "hat", "ear_r", "neck_l"):
        assert rate[IDS[name]] > 0.06, name
    for name in ("skin", "nose", "u_lip", "l_lip", "neck"):
        assert rate[IDS[name]] > 0.95, name


def test_label_agrees_with_meta() -> None:
    for face in faces():
        present = set(np.unique(face.label).tolist())
        assert (IDS["eye_g"] in present) == face.meta["glasses"]
        assert (IDS["hat"] in present) == face.meta["hat"]
        if face.meta["sunglasses"]:
            assert np.isin(face.label, (IDS["l_eye"], IDS["r_eye"])).mean() < 0.001
        json.dumps(face.meta)


def test_a_face_fills_the_picture_like_a_face_crop() -> None:
    inner = [IDS[c] for c in ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "u_lip", "l_lip", "mouth")]
    heights = []
    for face in faces():
        rows = np.flatnonzero(np.isin(face.label, inner).any(axis=1))
        heights.append((rows[-1] - rows[0] + 1) / SIZE)
    assert np.quantile(heights, 0.1) > 0.4 and np.quantile(heights, 0.9) < 0.8


@settings(slow, max_examples=8)
@given(index=indices)
def test_label_is_the_same_face_at_other_sizes(index: int) -> None:
    large, small = render_face(0, index, 384).label, render_face(0, index, 128).label
    assert (large[1::3, 1::3] == small).mean() > 0.97  # the middle of each 3 x 3 block is the small pixel's centre


@settings(slow, max_examples=6)
@given(index=indices)
def test_image_is_the_same_face_at_other_sizes(index: int) -> None:
    large, small = render_face(0, index, 384).image, render_face(0, index, 128).image
    shrunk = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 3).ravel() for image in (shrunk, small)])
    assert np.asarray(np.corrcoef(smooth))[0, 1] > 0.95


def test_viewer_left_parts_lie_left_of_their_partners() -> None:
    columns = np.arange(SIZE)[None, :].repeat(SIZE, axis=0)
    checked = 0
    for face in faces():
        if abs(face.meta["roll"]) > 15:
            continue
        for left, right in CELEBAMASK_HQ.sides:
            a, b = face.label == left, face.label == right
            if a.sum() > 3 and b.sum() > 3:
                assert columns[a].mean() < columns[b].mean(), (face.id, left)
                checked += 1
    assert checked > NUM_FACES


def test_jpeg_decodes_to_nearly_the_image() -> None:
    face = faces()[0]
    data = np.frombuffer(encode_image(face), np.uint8)
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    assert decoded.shape == face.image.shape
    assert np.abs(decoded.astype(int) - face.image).mean() < 12


def test_ids_name_seed_and_index() -> None:
    assert face_id(0, 123) == "s0-000123"
    assert faces()[5].id == face_id(7, 5)
    assert len({f.id for f in faces()}) == NUM_FACES


@pytest.mark.parametrize(("seed", "index", "size"), [(0, 0, 31), (0, 0, 0), (-1, 0, 64), (0, -1, 64)])
def test_invalid_arguments_are_refused(seed: int, index: int, size: int) -> None:
    with pytest.raises(ValueError, match="got"):
        render_face(seed, index, size)


@slow
@given(index=st.integers(0, NUM_FACES - 1), noise_seed=st.integers(0, 2**31))
def test_corruption_changes_the_label_within_the_taxonomy(index: int, noise_seed: int) -> None:
    label = faces()[index].label
    before = label.copy()
    spoiled, name = corrupt_label(label, noise_seed, index)
    again, _ = corrupt_label(label, noise_seed, index)
    assert np.array_equal(label, before), "the input must stay as it was"
    assert np.array_equal(spoiled, again)
    assert spoiled.shape == label.shape and spoiled.dtype == np.uint8
    assert spoiled.max() < CELEBAMASK_HQ.num_classes
    assert 0 < (spoiled != label).mean() < 0.5
    assert name in CORRUPTIONS


def test_every_kind_of_corruption_occurs() -> None:
    names = [corrupt_label(face.label, 0, i)[1] for i, face in enumerate(faces())]
    assert {name: names.count(name) >= 5 for name in CORRUPTIONS} == dict.fromkeys(CORRUPTIONS, True)


def test_images_do_not_depend_on_label_noise() -> None:
    before = render_face(7, 3, SIZE)
    corrupt_label(before.label, 7, 3)
    is_corrupted(7, 3, 0.5)
    after = render_face(7, 3, SIZE)
    assert np.array_equal(before.image, after.image) and np.array_equal(before.label, after.label)


def test_mirrored_ids_swap_exactly_the_pairs() -> None:
    label, rng = faces()[0].label, np.random.default_rng(0)
    swapped = _mirrored_ids(label, rng)
    paired = np.isin(label, [i for pair in CELEBAMASK_HQ.flip_pairs for i in pair])
    assert np.array_equal(swapped != label, paired)
    assert np.array_equal(_mirrored_ids(swapped, rng), label)


@settings(slow, max_examples=40)
@given(index=st.integers(0, NUM_FACES - 1), draw=st.integers(0, 10**6))
def test_forgetting_an_accessory_leaves_nothing_of_it(index: int, draw: int) -> None:
    label = faces()[index].label
    spoiled = _forgotten_accessory(label, np.random.default_rng(draw))
    accessories = [IDS[c] for c in ("eye_g", "hat", "ear_r", "neck_l")]
    changed = np.unique(label[spoiled != label])
    if not np.isin(label, accessories).any():
        assert changed.size == 0
    else:
        assert changed.size == 1 and changed[0] in accessories
        assert not (spoiled == changed[0]).any()


def test_a_missing_part_becomes_skin() -> None:
    label = faces()[0].label
    spoiled = _missing_part(label, np.random.default_rng(1))
    changed = spoiled != label
    assert changed.any() and (spoiled[changed] == IDS["skin"]).all()
    assert not np.isin(spoiled, np.unique(label[changed])).any()


def test_corruption_without_accessories_and_pairs_falls_through_to_another_kind() -> None:
    label = np.zeros((64, 64), np.uint8)
    label[20:40, 20:40] = IDS["skin"]
    names = {corrupt_label(label, 0, i)[1] for i in range(40)}
    assert names <= {"boundary", "shift"} and "shift" in names


def test_a_label_that_cannot_be_corrupted_is_refused() -> None:
    with pytest.raises(ValueError, match="one class"):
        corrupt_label(np.zeros((64, 64), np.uint8), 0, 0)
    with pytest.raises(ValueError, match="uint8"):
        corrupt_label(np.zeros((64, 64, 3), np.uint8), 0, 0)


@given(index=indices, low=st.floats(0, 1), high=st.floats(0, 1))
def test_is_corrupted_is_monotone_in_the_probability(index: int, low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert is_corrupted(0, index, low) <= is_corrupted(0, index, high)


def test_is_corrupted_has_the_given_rate() -> None:
    assert not any(is_corrupted(0, i, 0.0) for i in range(200))
    assert all(is_corrupted(0, i, 1.0) for i in range(200))
    assert abs(np.mean([is_corrupted(0, i, 0.2) for i in range(3000)]) - 0.2) < 0.03
    with pytest.raises(ValueError, match="probability"):
        is_corrupted(0, 0, 1.2)
