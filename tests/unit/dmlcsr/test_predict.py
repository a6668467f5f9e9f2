import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmlcsr.augment import Pose, canvas_to_image, warp_label
from dmlcsr.model import Architecture, FaceParser
from dmlcsr.predict import Predictor, normalize, resample, to_canvas
from dmlcsr.taxonomy import CELEBAMASK_HQ, IGNORE, LAPA
from dmlcsr.weights import Preprocessing
from tests.support.networks import card


class FromColors(torch.nn.Module):
    """Reads the class out of the red channel, at stride 4: a network whose right answer is known."""

    def forward(self, x):
        ids = torch.nn.functional.interpolate(x[:, :1] * 0.229 + 0.485, scale_factor=0.25, mode="bilinear")
        return -((ids * 255 - torch.arange(11).view(1, 11, 1, 1) * 20) ** 2) / 100


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 128), (200, 120), (90, 240), (37, 53)])
def test_labels_come_out_at_the_image_size_without_distortion(height, width):
    truth = np.zeros((height, width), np.uint8)
    truth[height // 4 : height // 2, width // 3 : width // 2] = 4
    truth[height // 2 :, : width // 2] = 8
    image = np.repeat((truth * 20)[..., None], 3, axis=2)
    predictor = Predictor(FromColors(), card(256, LAPA))
    predicted = predictor.label_map(image)
    assert predicted.shape == truth.shape and predicted.dtype == np.uint8
    # Only pixels beside a boundary may differ.
    assert (predicted == truth).mean() > 1 - 4 * (height + width) / (height * width)


def test_resampling_is_the_inverse_of_the_canvas():
    label = np.zeros((60, 100), np.uint8)
    label[20:50, 30:90] = 1
    canvas = warp_label(label, 128, Pose(), LAPA)
    logits = torch.from_numpy((canvas == 1).astype(np.float32))[None]
    back = resample(logits, 128, 60, 100)[0].numpy() > 0.5
    assert (back == label).mean() > 0.98
    assert IGNORE in canvas


def test_normalisation_follows_the_channel_order():
    pixels = torch.randint(0, 256, (1, 4, 4, 3), dtype=torch.uint8)
    rgb = normalize(pixels, Preprocessing(size=4))
    bgr = normalize(pixels.flip(3), Preprocessing(size=4, channel_order="bgr"))
    assert torch.equal(rgb, bgr)
    assert rgb[0, 0, 0, 0].item() == pytest.approx((pixels[0, 0, 0, 0].item() / 255 - 0.485) / 0.229, abs=1e-5)


def test_averaging_over_views_makes_the_answer_of_a_mirrored_image_the_mirrored_answer():
    torch.manual_seed(0)
    parser = FaceParser(Architecture(num_classes=19, depth=18, width=0.125))
    predictor = Predictor(parser, card(), tta=True)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    straight, mirrored = predictor.label_map(image), predictor.label_map(image[:, ::-1].copy())
    assert (mirrored == CELEBAMASK_HQ.flip_lut()[straight[:, ::-1]]).mean() > 0.99


def test_a_batch_gives_what_single_images_give():
    torch.manual_seed(0)
    predictor = Predictor(FaceParser(Architecture(num_classes=19, depth=18, width=0.125)), card())
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    together = predictor.label_maps(images, [(64, 64)] * 3)
    assert all((one == predictor.label_map(image)).mean() > 0.999 for one, image in zip(together, images, strict=True))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (700, 300), (3, 70_000)])
@pytest.mark.parametrize("tta", [False, True])
def test_strips_make_the_whole_whatever_the_size(height, width, tta):
    torch.manual_seed(0)
    predictor = Predictor(FaceParser(card().architecture), card(), tta=tta)
    (prediction,) = predictor.predict(
        np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8), [(height, width)]
    )
    whole = torch.stack([resample(logits, canvas, height, width).softmax(0) for logits, canvas in prediction.views])
    strips = list(prediction.strips())
    assert [rows.start for rows, _ in strips] == [0, *(rows.stop for rows, _ in strips[:-1])]
    assert torch.allclose(torch.cat([probs for _, probs in strips], 1), whole.mean(0), atol=1e-6)
    assert (prediction.label_map() == whole.sum(0).argmax(0).numpy()).mean() > 0.999


@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 60), st.integers(2, 20))
def test_each_pixel_is_sampled_at_its_place_on_the_canvas(height, width, canvas, stride_cells):
    """Logits that say where they are: the first and the last one sit on the canvas' first and last pixel."""
    ramp = torch.linspace(0, canvas - 1, stride_cells, dtype=torch.float64)
    logits = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij"))
    rows, columns = resample(logits, canvas, height, width)
    matrix = canvas_to_image(height, width, canvas, Pose())
    for found, index, count in ((columns[0], 0, width), (rows[:, 0], 1, height)):
        wanted = (np.arange(count) - matrix[index, 2]) / matrix[index, index]
        np.testing.assert_allclose(found, np.clip(wanted, 0, canvas - 1), atol=1e-4)


class SaysSize(torch.nn.Module):
    """Notes which canvases it gets."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.shape[2:])
        return torch.zeros(len(x), 19, 2, 2)


def test_test_time_averaging_sees_three_scales_each_as_it_is_and_mirrored():
    parser = SaysSize()
    (prediction,) = Predictor(parser, card(64), tta=True).predict(np.zeros((1, 64, 64, 3), np.uint8), [(10, 10)])
    sides = [48, 48, 64, 64, 80, 80]
    assert sorted(parser.seen) == [(side, side) for side in sides]
    assert sorted(canvas for _, canvas in prediction.views) == sides


def test_the_canvas_has_the_border_of_the_card():
    image = np.full((10, 20, 3), 200, np.uint8)
    canvas = to_canvas(image, Preprocessing(size=20, border_color=(1, 2, 3)))
    assert (canvas[:5] == (1, 2, 3)).all() and (canvas[15:] == (1, 2, 3)).all() and (canvas[5:15] == 200).all()
    assert (to_canvas(image, Preprocessing(size=20, fit="stretch")) == 200).all()
