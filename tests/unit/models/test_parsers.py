"""ONNX files as models: our own export, another architecture, and cards that are wrong."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given

from dmlcsr import export
from dmlcsr.model import FaceParser
from dmlcsr.predict import Predictor, normalize
from dmlcsr.synthetic import render_face
from dmlcsr.taxonomy import HELEN
from pipelines.config import plain_yaml
from pipelines.config.training import TrainConfig
from pipelines.errors import UserError
from pipelines.models import actors, model_directory, parsers
from pipelines.models.teachers import configured_teacher
from tests.support.damage import changed, damaged
from tests.support.networks import balance, card
from tests.support.onnx_files import CARD, by_color, four_colors, write_by_color


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, and what `export` writes of it."""
    folder = tmp_path_factory.mktemp("exported")
    described = card(size=64)
    preprocessing = replace(described.preprocessing, channel_order="bgr", border_color=(0, 0, 0))
    described = replace(described, preprocessing=preprocessing, lineage={"origins": ["a"]})
    torch.manual_seed(0)
    face = torch.from_numpy(render_face(0, 0, 64).image)[None]
    parser = balance(FaceParser(described.architecture), normalize(face, preprocessing))
    model_directory.write_model(str(folder / "model"), parser, described)
    (folder / "parser.onnx").write_bytes(export.to_onnx(parser, described))
    return str(folder / "model"), str(folder / "parser.onnx")


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (90, 50)])
def test_our_own_export_answers_as_the_model(exported, height, width, tta):
    image = np.ascontiguousarray(np.resize(render_face(0, 0, 96).image, (height, width, 3)))
    model, file = (Predictor(*parsers.read_parser(uri), tta=tta).label_map(image) for uri in exported)
    assert len(np.unique(model)) > 3 and (model == file).mean() > 0.9995  # the rest are ties


def test_our_own_export_knows_on_what_it_was_trained(exported):
    assert model_directory.has_seen(parsers.read_card(exported[1]), ["a"]) is True
    assert parsers.digest(exported[0]) != parsers.digest(exported[1])
    assert parsers.home(exported[1]) == exported[1].rpartition("/")[0]


@pytest.mark.parametrize("settings", [{}, {"batch": 1, "size": 64}])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (150, 60), (60, 100)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_another_architecture_labels_with_the_classes_of_its_card(tmp_path, height, width, fit, settings):
    uri = write_by_color(tmp_path, CARD.replace("stretch", fit), **settings)
    predictor = Predictor(*parsers.read_parser(uri))
    label = predictor.label_map(four_colors(height, width))
    wanted = np.zeros((height, width), np.uint8)
    wanted[: height // 2, width // 2 :] = wanted[height // 2 :, : width // 2] = HELEN.classes.index("skin")
    wanted[height // 2 :, width // 2 :] = HELEN.classes.index("hair")
    cells = max(height, width) / 8  # only pixels in the cells beside a boundary may differ
    assert label.shape == wanted.shape and (label == wanted).mean() > 1 - 2 * cells * (height + width) / 8 / wanted.size
    canvases = np.stack([four_colors(64, 64)] * 2)
    for prediction in predictor.predict(canvases, [(height, width)] * 2):
        for _, probabilities in prediction.strips():
            torch.testing.assert_close(probabilities.sum(0), torch.ones(probabilities.shape[1:]))


WRONG = {
    "size: 64": ("size: 1", r"preprocessing.size must be from 2 to"),
    "mean: [0.0, 0.0, 0.0]": ("mean: [0.0, 0.0]", r"mean: List should have at least 3 items"),
    "std: [1.0, 1.0, 1.0]": ("std: [1.0, 1.0, 0.0]", r"preprocessing.std finite and above 0"),
    "channel_order: bgr": ("channel_order: gbr", r"channel_order: Input should be 'rgb' or 'bgr'"),
    "fit: stretch": ("fit: crop", r"fit: Input should be 'letterbox' or 'stretch'"),
    "output: scores": ("output: logits", r"the file has no output 'logits'; its outputs are scores"),
    "stride: 8": ("stride: 4", r"is 8x8 for an image of size 64; that is not the card's stride of 4"),
    "taxonomy: helen": ("taxonomy: cats", r"unknown taxonomy 'cats'; known are"),
    "hair: hair}": ("hair: hare}", r"classes names 'hare', which is no class of helen"),
    "beard: skin, ": ("", r"the output scores has 4 channels, the card names 3"),
    "fit: stretch\n": ("", r"fit: Field required"),
    "stride: 8\n": ("stride: 8\nheads: 2\n", r"heads: Extra inputs are not permitted"),
    "stride: 8  ": ("stride: 0", r"stride must be at least 1"),
    "output: scores\n": ("output: scores\nborder_color: [0, 0, 256]\n", r"border_color.2: Input should be less than"),
    "output: scores ": ("align_corners: 3", r"align_corners: Input should be a valid boolean"),
}


@pytest.mark.parametrize(("right", "wrong", "message"), [(a.rstrip(" "), b, c) for a, (b, c) in WRONG.items()])
def test_a_card_that_is_wrong_in_one_field_is_refused_in_one_sentence(tmp_path, right, wrong, message):
    assert right in CARD
    if wrong.startswith("align"):
        wrong = f"{right}\n{wrong}"
    uri = write_by_color(tmp_path, CARD.replace(right, wrong))
    with pytest.raises(UserError, match=message) as refused:
        parsers.read_parser(uri)
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


def test_a_file_of_another_fixed_size_than_its_card_is_refused(tmp_path):
    uri = write_by_color(tmp_path, size=128)
    with pytest.raises(UserError, match="does not run on an image of size 64"):
        parsers.read_parser(uri)


def test_a_file_without_a_card_or_that_is_not_onnx_is_refused(tmp_path):
    (tmp_path / "bare.onnx").write_bytes(by_color())
    with pytest.raises(UserError, match=r"bare.onnx has no card: write .*bare.yaml"):
        parsers.read_parser(str(tmp_path / "bare.onnx"))
    (tmp_path / "bare.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="not a usable ONNX file"):
        parsers.read_parser(str(tmp_path / "bare.onnx"))


def test_a_file_of_fixed_size_refuses_test_time_averaging(tmp_path):
    uri = write_by_color(tmp_path, size=64)
    with pytest.raises(UserError, match="omit --tta"):
        actors.load_predictor(uri, False, True)
    assert actors.load_predictor(uri, False, False).size == 64


def test_an_onnx_file_teaches(tmp_path):
    uri = write_by_color(tmp_path)
    config = TrainConfig(data="/unused", out="/unused", teacher=uri, input={"size": 32})
    teacher = configured_teacher(config, torch.device("cpu"))
    batch = {"image": torch.from_numpy(four_colors(32, 32))[None], "label": torch.zeros(1, 32, 32, dtype=torch.uint8)}
    targets = teacher.targets(batch, 1)
    hair = targets.parsing[0, HELEN.classes.index("hair")]
    assert hair[28, 28] > 0.45 > 0.05 > hair[4, 28] and targets.binary_edge is None


VALUES = plain_yaml.load(CARD)


@given(changed(VALUES).map(lambda value: plain_yaml.dump(value).encode()) | damaged([CARD.encode()]))
def test_a_card_is_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("card")
    uri = write_by_color(folder)
    (folder / "teacher.yaml").write_bytes(content)
    with suppress(UserError):
        assert parsers.read_card(uri).preprocessing.size >= 2


@given(damaged([by_color()]))
def test_an_onnx_file_is_used_or_refused(tmp_path_factory, content):
    uri = write_by_color(tmp_path_factory.mktemp("file"))
    Path(uri).write_bytes(content)
    with suppress(UserError):
        parsers.read_parser(uri)
