from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dmlcsr import load_model, parse
from dmlcsr.image_files import BadSampleError
from dmlcsr.model import FaceParser
from dmlcsr.weights import save_model
from tests.support.networks import card


def test_a_loaded_model_averages_over_views_where_it_is_told_to(tmp_path):
    save_model(tmp_path / "model", FaceParser(card().architecture).eval(), card())
    assert [load_model(tmp_path, tta=tta).tta for tta in (False, True)] == [False, True]


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "model", FaceParser(card().architecture).eval(), card())
    return load_model(tmp_path)


def test_a_photo_that_predict_would_list_is_refused_with_the_same_reason(model, tmp_path):
    Image.new("CMYK", (20, 20)).save(tmp_path / "print.jpg")
    with pytest.raises(BadSampleError, match=r"print\.jpg cannot be read as an image") as refused:
        parse(model, tmp_path / "print.jpg")
    assert refused.value.reason == "color_mode"


def test_a_cut_out_is_parsed_on_white(model, tmp_path):
    image = Image.new("RGBA", (40, 30), (255, 0, 255, 0))
    image.paste((200, 150, 100, 255), (10, 10, 20, 20))
    image.save(tmp_path / "cut-out.png")
    on_white = np.full((30, 40, 3), 255, np.uint8)
    on_white[10:20, 10:20] = (200, 150, 100)
    np.testing.assert_array_equal(parse(model, tmp_path / "cut-out.png"), parse(model, on_white))


@pytest.mark.parametrize("device", [torch.device("cpu"), "cpu"])
def test_a_device_is_given_as_such_or_by_name(model, tmp_path, device):
    image = np.full((20, 30, 3), 90, np.uint8)
    np.testing.assert_array_equal(parse(load_model(tmp_path, device=device), image), parse(model, image))


@pytest.mark.parametrize("device", ["mps", torch.device("mps"), "no-such-device", "cuda:0"])
def test_a_device_that_is_not_there_is_refused_in_a_sentence(model, tmp_path, device):
    if torch.backends.mps.is_available() or torch.cuda.is_available():
        pytest.skip("this machine has one of the devices")
    with pytest.raises(ValueError, match=f"the device {device} cannot be used: ") as refused:
        load_model(tmp_path, device=device)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0, 3)])
def test_an_image_without_a_pixel_is_refused(model, shape):
    with pytest.raises(ValueError, match=r"an image must be .* H and W at least 1, got uint8"):
        parse(model, np.zeros(shape, np.uint8))


@pytest.mark.parametrize("tta", [False, True])
def test_the_smallest_input_gives_labels_and_a_smaller_one_is_refused(tmp_path, tta):
    save_model(tmp_path, FaceParser(card().architecture).eval(), card(size=2))
    assert parse(load_model(tmp_path, tta=tta), np.zeros((5, 7, 3), np.uint8)).shape == (5, 7)
    with pytest.raises(ValueError, match=r"preprocessing.size must be from 2"):
        card(size=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_precision_labels_as_one_of_float32(tmp_path, dtype):
    parser = FaceParser(card().architecture).eval()
    save_model(tmp_path / "other", parser.to(dtype), card())
    save_model(tmp_path / "same", parser.float(), card())
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    labels = [parse(load_model(tmp_path / name), image) for name in ("other", "same")]
    np.testing.assert_array_equal(*labels)


def test_the_border_of_a_photo_has_the_color_that_the_card_says(tmp_path):
    described = card(size=64)
    black = replace(described, preprocessing=replace(described.preprocessing, border_color=(0, 0, 0)))
    parser = FaceParser(described.architecture).eval()
    image = np.full((20, 64, 3), 200, np.uint8)
    padded = np.zeros((64, 64, 3), np.uint8)
    padded[22:42] = image
    save_model(tmp_path, parser, black)
    np.testing.assert_array_equal(parse(load_model(tmp_path), image), parse(load_model(tmp_path), padded)[22:42])
