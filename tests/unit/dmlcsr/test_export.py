"""Exported files are the model: ONNX Runtime and safetensors against the network; the library against both."""

import json
import subprocess
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ray_job
from dmlcsr import export, load_model, parse
from dmlcsr.model import Architecture, FaceParser
from dmlcsr.predict import resample
from dmlcsr.taxonomy import CELEBAMASK_HQ
from dmlcsr.weights import ModelCard, Preprocessing, save_model
from tests.support.networks import balance


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    architecture = Architecture(num_classes=19, depth=18, width=0.0625)
    preprocessing = Preprocessing(size=64, channel_order="bgr")
    card = ModelCard(architecture=architecture, taxonomy=CELEBAMASK_HQ, preprocessing=preprocessing)
    return balance(FaceParser(architecture), torch.randn(2, 3, 64, 64)), card


@pytest.fixture(scope="module")
def file(model):
    return export.to_onnx(*model)


@pytest.fixture
def folder(model, tmp_path):
    save_model(tmp_path / "run" / "model", *model)
    return tmp_path / "run"


@pytest.fixture(scope="module")
def session(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(32, 160), st.integers(32, 160))
def test_onnx_runtime_agrees_on_any_batch_and_size(model, session, batch, height, width):
    images = torch.randn(batch, 3, height, width)
    with torch.inference_mode():
        wanted = model[0](images).numpy()
    found = session.run(["logits"], {"image": images.numpy()})[0]
    np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1, np.abs(wanted).max()), rtol=0)


def test_the_file_is_valid_and_says_how_to_use_it(model, file, session):
    onnx.checker.check_model(onnx.load_from_string(file), full_check=True)
    card = json.loads(session.get_modelmeta().custom_metadata_map["model.json"])
    assert ModelCard.from_json(card) == model[1]


def images_and_sizes(size):
    random = np.random.default_rng(0)
    for height, width in ((size, size), (40, 90), (151, 33)):
        yield random.normal(0, 1, (2, 3, size, size)).astype(np.float32), height, width


def test_labels_of_the_graph_are_those_of_the_predictor(model):
    parser, card = model
    options = export.OnnxOptions(output="labels")
    data = export.to_onnx(parser, card, options)
    assert 0 <= export.onnx_error(data, parser, 64, options) < 1e-3
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for images, height, width in images_and_sizes(64):
        (found,) = session.run(["labels"], {"image": images, "size": np.array([height, width])})
        assert found.shape == (2, height, width) and found.dtype == np.uint8
        with torch.inference_mode():
            logits = parser(torch.from_numpy(images))
        wanted = torch.stack([resample(one, 64, height, width).argmax(0) for one in logits])
        assert (found == wanted.numpy()).mean() > 0.9995  # the rest are ties


def test_a_label_that_is_not_the_models_is_an_error(model, monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", AlwaysZero)
    with pytest.raises(ValueError, match="differs from the model by"):
        export.onnx_error(b"", model[0], 64, export.OnnxOptions(output="labels"))


class AlwaysZero:
    """A session that sees background everywhere."""

    def __init__(self, *_, **__):
        pass

    def run(self, _, inputs):
        return (np.zeros((len(inputs["image"]), *inputs["size"]), np.uint8),)


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        (export.OnnxOptions(output="labels", fixed_size=True, opset=18), [[1, 3, 64, 64], [1, 64, 64]]),
        (export.OnnxOptions(fixed_size=True, float16=True), [[1, 3, 64, 64], [1, 19, 16, 16]]),
    ],
)
def test_a_file_has_the_size_operators_and_precision_that_were_asked_for(model, file, options, shapes):
    data = export.to_onnx(*model, options)
    assert 0 <= export.onnx_error(data, model[0], 64, options) < 0.5
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert [value.shape for value in (*session.get_inputs(), *session.get_outputs())] == shapes
    written = onnx.load_from_string(data)
    onnx.checker.check_model(written, full_check=True)
    assert options.opset is None or written.opset_import[0].version == options.opset
    assert not options.float16 or len(data) < 0.75 * len(file)
    assert next(model[0].parameters()).dtype == torch.float32


def test_options_of_the_graph_are_refused_for_a_file_of_weights(folder, tmp_path, capsys):
    arguments = ["export", "--model", str(folder), "--format", "safetensors", "--out", str(tmp_path / "x")]
    assert ray_job.main([*arguments, "--output", "labels"]) == 2
    assert "output is an option of format onnx" in capsys.readouterr().err


def test_an_exported_file_names_the_classes_and_their_colors(model, session, tmp_path):
    (tmp_path / "weights").write_bytes(export.to_safetensors(*model))
    with safetensors.safe_open(tmp_path / "weights", "np") as weights:
        cards = [session.get_modelmeta().custom_metadata_map["model.json"], weights.metadata()["model.json"]]
    for card in cards:
        taxonomy = json.loads(card)["taxonomy"]
        assert taxonomy["classes"] == list(CELEBAMASK_HQ.classes)
        colors = {name: tuple(color) for name, color in taxonomy["colors"].items()}
        assert colors == dict(zip(CELEBAMASK_HQ.classes, CELEBAMASK_HQ.palette, strict=True))


def test_another_models_file_is_refused(model, file):
    torch.manual_seed(1)
    other = FaceParser(model[1].architecture).eval()
    with pytest.raises(ValueError, match="differs from the model by"):
        export.onnx_error(file, other, 64)
    with pytest.raises(ValueError, match="does not hold the network's weights"):
        export.safetensors_error(export.to_safetensors(*model), other)


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_the_command_writes_one_file(folder, tmp_path, capsys, kind):
    out = tmp_path / f"parser.{kind}"
    assert ray_job.main(["export", "--model", str(folder), "--format", kind, "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["out"] == str(out) and 0 <= result["max_abs_error"] < 1e-2
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [out.name]


def test_a_file_that_is_not_the_model_is_not_written(folder, file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "to_onnx", lambda *_: file)  # made before: it takes seconds
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    out = tmp_path / "parser.onnx"
    assert ray_job.main(["export", "--model", str(folder), "--format", "onnx", "--out", str(out)]) == 2
    assert "differs from the model" in capsys.readouterr().err and not out.exists()


def test_without_the_extra_the_user_is_told_what_to_install(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    arguments = ["export", "--model", str(folder), "--format", "onnx", "--out", str(tmp_path / "x")]
    assert ray_job.main(arguments) == 2
    assert "install the extra" in capsys.readouterr().err


def test_the_library_labels_arrays_and_files_of_any_size(folder, tmp_path):
    model = load_model(folder)
    image = np.random.default_rng(0).integers(0, 255, (70, 50, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    label = parse(model, image)
    assert label.shape == (70, 50) and label.dtype == np.uint8
    np.testing.assert_array_equal(parse(model, tmp_path / "photo.png"), label)
    np.testing.assert_array_equal(parse(load_model(folder / "model"), image), label)


@pytest.mark.parametrize("image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32), "no-such-file.png"])
def test_what_is_no_image_is_refused(folder, image):
    with pytest.raises(ValueError, match="image"):
        parse(load_model(folder), image)


def test_the_library_does_not_import_ray():
    script = "import sys; from dmlcsr import load_model, parse; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
