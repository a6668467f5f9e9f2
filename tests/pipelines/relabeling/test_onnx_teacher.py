"""ONNX files as models of the commands: our own export, and another architecture."""

import json

import pytest

from dmlcsr import export
from pipelines.config.commands import EvaluateConfig, PredictConfig, RelabelConfig
from pipelines.data import dataset
from pipelines.data.images import encode_png
from pipelines.errors import UserError
from pipelines.inference import evaluate, predict
from pipelines.models import model_directory, parsers
from pipelines.relabeling import relabel
from tests.support.onnx_files import CARD, four_colors, write_by_color
from tests.support.relabelling import write_model

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_our_own_export_has_the_scores_of_the_model(faces, tmp_path):
    model = write_model(tmp_path / "model")
    (tmp_path / "parser.onnx").write_bytes(export.to_onnx(*model_directory.read_model(model)))
    scores = [
        evaluate.run(EvaluateConfig(model=uri, data=str(faces), split="val", out=f"{tmp_path}/{number}"))
        for number, uri in enumerate((model, str(tmp_path / "parser.onnx")))
    ]
    for name, value in scores[0]["f1"].items():
        assert value == pytest.approx(scores[1]["f1"][name], abs=2e-3)


def test_another_architecture_labels_scores_and_predicts(faces, tmp_path):
    card = CARD.replace("helen", "celebamask_hq")
    uri = write_by_color(tmp_path / "teacher", card, batch=1, size=64)
    config = RelabelConfig(model=uri, data=str(faces), out=str(tmp_path / "new"), policy="replace")
    result = relabel.run(config)
    made = dataset.read_manifest(config.out)
    assert result["num_changed_rows"] == made.num_rows()["train"] > 0
    assert made.relabelled["models"] == [{"model": uri, "weights_sha256": parsers.digest(uri)}]
    scored = evaluate.run(EvaluateConfig(model=uri, data=config.out, split="train"))
    assert scored["pixel_accuracy"] == 1 and scored["out"].startswith(f"{tmp_path}/teacher/evaluation/")
    (tmp_path / "photo.png").write_bytes(encode_png(four_colors(30, 40)))
    found = predict.run(PredictConfig(model=uri, images=str(tmp_path / "photo.png"), out=str(tmp_path / "labels")))
    assert found["num_images"] == 1
    assert len(json.loads((tmp_path / "labels" / "classes.json").read_text())) == 19


def test_a_teacher_of_other_classes_is_refused(faces, tmp_path):
    uri = write_by_color(tmp_path)
    with pytest.raises(UserError, match="knows the classes of helen"):
        relabel.run(RelabelConfig(model=uri, data=str(faces), out=str(tmp_path / "new")))
