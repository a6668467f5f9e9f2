import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlcsr.augment import Augmentation, Pose, augment, decode_factor, draw_pose, warp_image, warp_label
from dmlcsr.predict import normalize
from dmlcsr.taxonomy import CELEBAMASK_HQ, IGNORE, LAPA
from dmlcsr.weights import Preprocessing

POSES = st.builds(Pose, scale=st.floats(0.75, 1.25), rotation=st.floats(-60, 60), flip=st.booleans())
SIDES = st.integers(8, 70)


def some_label(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 5, (height, width)).astype(np.uint8) * 2


@given(SIDES, SIDES, POSES, st.integers(16, 64))
@settings(max_examples=50, deadline=None)
def test_a_warp_never_invents_a_class(height, width, pose, size):
    label = some_label(height, width)
    allowed = {*np.unique(LAPA.flip_lut()[label] if pose.flip else label), IGNORE}
    assert set(np.unique(warp_label(label, size, pose, LAPA))) <= allowed


@given(SIDES, SIDES, POSES, st.integers(16, 64))
@settings(max_examples=50, deadline=None)
def test_exactly_the_pixels_from_outside_are_ignored(height, width, pose, size):
    from dmlcsr.augment import canvas_to_image

    warped = warp_label(np.zeros((height, width), np.uint8), size, pose, LAPA)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    source = canvas_to_image(height, width, size, pose) @ np.stack([x.ravel(), y.ravel(), np.ones(size**2)])
    beyond = np.maximum(
        np.abs(source[0] - (width - 1) / 2) - width / 2, np.abs(source[1] - (height - 1) / 2) - height / 2
    )
    beyond = beyond.reshape(size, size)
    # cv2 computes in 1/1024 pixels: what lies on the border to that precision may fall either way.
    assert (warped[beyond > 0.01] == IGNORE).all()
    assert (warped[beyond < -0.01] == 0).all()


@pytest.mark.parametrize("size", [31, 64, 473])
def test_an_unmoved_square_loses_no_row_or_column(size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
    label = some_label(size, size)
    same_image, same_label = augment(image, label, LAPA, size, Pose())
    assert (same_image == image).all() and (same_label == label).all()


@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 42), (18, 64)])
def test_an_image_that_is_not_square_lies_whole_in_the_middle(height, width):
    label = some_label(height, width)
    canvas = warp_label(label, 64, Pose(), LAPA)
    rows, columns = np.nonzero(canvas != IGNORE)
    inside = canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert inside.shape == (height, width) and (inside == label).all()


def test_an_odd_margin_loses_no_column_either():
    label = np.arange(41, dtype=np.uint8).repeat(64).reshape(41, 64)
    canvas = warp_label(label, 64, Pose(), LAPA)
    assert set(np.unique(canvas)) == {*range(41), IGNORE}


def test_a_quarter_turn_and_its_inverse_give_every_row_and_column_back():
    label = some_label(32, 32)
    turned = warp_label(label, 32, Pose(rotation=90), LAPA)
    assert (warp_label(turned, 32, Pose(rotation=-90), LAPA) == label).all()
    assert (turned != label).any()


def test_a_flip_swaps_exactly_the_pair_ids_and_twice_is_the_identity():
    label = np.arange(CELEBAMASK_HQ.num_classes, dtype=np.uint8).repeat(4).reshape(-1, 4)
    label = np.resize(label, (76, 76))
    flipped = warp_label(label, 76, Pose(flip=True), CELEBAMASK_HQ)
    assert (flipped == CELEBAMASK_HQ.flip_lut()[label[:, ::-1]]).all()
    assert (warp_label(flipped, 76, Pose(flip=True), CELEBAMASK_HQ) == label).all()


def test_image_and_label_of_half_its_size_land_on_the_same_place():
    image = np.zeros((128, 128, 3), np.uint8)
    image[32:96, 20:60] = 255
    label = (image[::2, ::2, 0] > 0).astype(np.uint8)
    pose = Pose(scale=0.9, rotation=20, flip=True)
    warped_image, warped_label = augment(image, label, LAPA, 64, pose)
    inside = warped_label != IGNORE
    differs = (warped_image[..., 0] > 127)[inside] != (warped_label == 1)[inside]
    assert differs.mean() < 0.02


@pytest.mark.parametrize("pose", [Pose(), Pose(scale=1.25, rotation=40, flip=True)])
def test_what_is_outside_the_image_is_zero_for_the_network(pose):
    canvas = warp_image(np.full((24, 64, 3), 255, np.uint8), 64, pose)
    outside = warp_label(np.zeros((24, 64), np.uint8), 64, pose, LAPA) == IGNORE
    beyond = cv2.erode(outside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # the border itself is interpolated
    pixels = normalize(torch.from_numpy(canvas[None]), Preprocessing(size=64))[0].numpy()
    assert beyond.sum() > 1000 and np.abs(pixels[:, beyond]).max() < 0.01  # a grey level is 0.017


def test_strong_reduction_averages_instead_of_aliasing():
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    reduced = warp_image(stripes, 64, Pose())
    assert np.abs(reduced[1:-1, 1:-1].astype(int) - 127).max() <= 1


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(32, 512), POSES)
@settings(max_examples=200, deadline=None)
def test_a_smaller_decode_leaves_the_rest_of_the_averaging_to_the_warp(height, width, size, pose):
    factor = decode_factor(height, width, size, pose)
    shrink, rest = (int(pose.scale * max(height, width) / part / size) for part in (1, factor))
    assert factor == 1 or (height % factor == 0 and width % factor == 0 and rest * factor == shrink)


@pytest.mark.parametrize(
    ("side", "scale", "factor"),
    [(1024, 1.0, 2), (1024, 0.9, 1), (1025, 1.0, 1), (1600, 1.0, 1), (2048, 1.0, 4), (4096, 1.0, 8), (473, 1.0, 1)],
)
def test_an_image_is_decoded_smaller_only_where_it_would_be_averaged_anyway(side, scale, factor):
    assert decode_factor(side, side, 473, Pose(scale=scale)) == factor


@given(st.integers(0, 2**31), st.integers(0, 500), st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_poses_depend_on_seed_epoch_and_id_alone_and_stay_in_bounds(seed, epoch, row_id):
    augmentation = Augmentation()
    pose = draw_pose(augmentation, seed, epoch, row_id)
    assert pose == draw_pose(augmentation, seed, epoch, row_id)
    assert 0.75 <= pose.scale <= 1.25 and -60 <= pose.rotation <= 60


def test_poses_differ_between_rows_and_epochs_and_follow_the_recipe():
    poses = [draw_pose(Augmentation(), 0, epoch, f"row-{row}") for epoch in range(20) for row in range(100)]
    assert len({pose.scale for pose in poses}) > 1000
    assert abs(np.mean([pose.rotation != 0 for pose in poses]) - 0.6) < 0.04
    assert abs(np.mean([pose.flip for pose in poses]) - 0.5) < 0.04
    assert abs(np.mean([pose.scale for pose in poses]) - 1) < 0.02
