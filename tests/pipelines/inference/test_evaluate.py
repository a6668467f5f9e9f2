import csv
import io
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from dmlcsr.metrics import Counts, scores
from dmlcsr.model import Architecture, FaceParser
from dmlcsr.predict import Predictor
from dmlcsr.taxonomy import CELEBAMASK_HQ, LAPA
from dmlcsr.weights import ModelCard, Preprocessing
from pipelines import storage
from pipelines.config.commands import EvaluateConfig, ImportWeightsConfig, PredictConfig
from pipelines.config.training import TrainConfig
from pipelines.data import dataset, decode_tasks, images, row_groups
from pipelines.errors import OutputTakenError, UserError
from pipelines.inference import evaluate, image_scores, predict
from pipelines.models import import_weights, model_directory, setup
from pipelines.run import result_file
from tests.support.networks import imagenet_like


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained model: what it says is wrong, but it says it reproducibly."""
    torch.manual_seed(0)
    architecture = Architecture(num_classes=19, depth=18, width=0.125)
    out = str(tmp_path_factory.mktemp("model") / "model")
    card = ModelCard(architecture=architecture, taxonomy=CELEBAMASK_HQ, preprocessing=Preprocessing(size=64))
    model_directory.write_model(out, FaceParser(architecture).eval(), card)
    return out


def score_by_hand(model, faces, split, tta=False):
    predictor = Predictor(*model_directory.read_model(model), tta=tta)
    source = row_groups.open_split(str(faces), dataset.read_manifest(str(faces)), split)
    rows = row_groups.read_rows(source, source.groups.locate(0, source.num_rows), ("id", "image", "label"))
    counts = Counts(19)
    for row in rows:
        counts.add(images.decode_label(row["label"]), predictor.label_map(images.decode_image(row["image"])))
    return scores(counts, CELEBAMASK_HQ)


@pytest.mark.parametrize("tta", [False, pytest.param(True, marks=pytest.mark.faults)])
def test_the_actor_pool_gives_the_scores_of_a_plain_loop(model, faces, tmp_path, tta):
    config = EvaluateConfig(
        model=model, data=str(faces), split="train", out=str(tmp_path / "e"), tta=tta, num_overlays=0
    )
    result = evaluate.run(config)
    expected = score_by_hand(model, faces, "train", tta)
    assert result["num_images"] == 48
    assert result["mean_f1"] == pytest.approx(expected.mean_f1, abs=1e-3 if tta else 1e-9)
    assert result["boundary_iou"] == pytest.approx(expected.mean_boundary_iou, abs=1e-3 if tta else 1e-9)
    assert list(result["f1"]) == list(CELEBAMASK_HQ.classes)


def test_scores_matrix_and_overlays_are_written(model, faces, tmp_path):
    out = str(tmp_path / "e")
    result = evaluate.run(EvaluateConfig(model=model, data=str(faces), out=out, num_overlays=2))
    assert storage.read_json(f"{out}/scores.json")["mean_f1"] == result["mean_f1"]
    matrix = list(csv.reader(io.StringIO(storage.read_bytes(f"{out}/confusion.csv").decode())))
    assert matrix[0][1:] == list(CELEBAMASK_HQ.classes)
    assert sum(int(value) for row in matrix[1:] for value in row[1:]) == 6 * 96 * 96
    for name in ("best-01", "best-02", "worst-01", "worst-02"):
        picture = cv2.imread(f"{out}/overlays/{name}.png")
        assert picture.shape[0] > 96 and picture.shape[1] == 4 * 96, "four pictures above a legend"
    scored = pq.read_table(f"{out}/images/part-00000.parquet").to_pylist()
    assert [row["row"] for row in scored] == list(range(6)) and not any(row["reason"] for row in scored)
    ranked = sorted(scored, key=lambda row: (row["mean_f1"], row["row"]), reverse=True)
    written = storage.read_json(f"{out}/scores.json")
    assert [image["id"] for image in written["best"]] == [row["id"] for row in ranked[:2]]
    assert [image["id"] for image in written["worst"]] == [row["id"] for row in ranked[::-1][:2]]


def test_many_images_are_scored_in_few_tasks_and_written_in_parts(model, faces, tmp_path, monkeypatch):
    """48 rows in two tasks of two chunks, whose scores arrive in any order; the parts of before are gone."""
    monkeypatch.setattr(decode_tasks, "MAX_TASKS", 2)
    monkeypatch.setattr(image_scores, "_PART_ROWS", 10)
    out = str(tmp_path / "e")
    config = EvaluateConfig(model=model, data=str(faces), split="train", out=out, num_overlays=0)
    evaluate.run(config)
    (tmp_path / "e/images/part-00077.parquet").write_bytes(b"of another split")
    first = {path.name: path.read_bytes() for path in (tmp_path / "e/images").iterdir() if "77" not in path.name}
    evaluate.run(config)
    assert {path.name: path.read_bytes() for path in (tmp_path / "e/images").iterdir()} == first
    assert sorted(first) == [f"part-{number:05d}.parquet" for number in range(5)]
    rows = [row for name in sorted(first) for row in pq.read_table(f"{out}/images/{name}")["row"].to_pylist()]
    assert rows == list(range(48))


def test_a_model_of_other_classes_is_refused(faces, tmp_path):
    architecture = Architecture(num_classes=11, depth=18, width=0.125)
    card = ModelCard(architecture=architecture, taxonomy=LAPA, preprocessing=Preprocessing(size=64))
    model_directory.write_model(str(tmp_path), FaceParser(architecture).eval(), card)
    with pytest.raises(UserError, match="knows the classes of lapa"):
        evaluate.run(EvaluateConfig(model=str(tmp_path), data=str(faces)))


def test_a_folder_that_is_not_an_evaluation_is_not_written_to(model, faces, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OutputTakenError):
        evaluate.run(EvaluateConfig(model=model, data=str(faces), out=str(tmp_path)))


def test_a_damaged_data_file_is_one_sentence(model, faces, tmp_path):
    shutil.copytree(faces, tmp_path / "damaged")
    (file,) = dataset.read_manifest(str(faces)).splits["test"]
    (tmp_path / "damaged" / file.path).write_bytes(b"PAR1 garbage PAR1")
    with pytest.raises(UserError, match=rf"cannot read .*{file.path}") as error:
        evaluate.run(EvaluateConfig(model=model, data=str(tmp_path / "damaged"), out=str(tmp_path / "e")))
    assert "\n" not in str(error.value)


def test_predictions_never_go_into_another_commands_output(model, tmp_path):
    result_file.write("evaluate", str(tmp_path / "e"), {"out": str(tmp_path / "e")}, 0, "done")
    (tmp_path / "a.png").write_bytes(images.encode_png(np.zeros((9, 9), np.uint8)))
    with pytest.raises(OutputTakenError, match="output of `evaluate`"):
        predict.run(PredictConfig(model=model, images=str(tmp_path / "a.png"), out=str(tmp_path / "e")))


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A model directory made by the command from an ImageNet-like checkpoint, and the command's result."""
    folder = tmp_path_factory.mktemp("imported")
    source, state = imagenet_like(18, "sequence")
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "resnet.safetensors")
    config = ImportWeightsConfig(checkpoint=str(folder / "resnet.safetensors"), taxonomy="lapa", out=str(folder / "m"))
    return source.encoder.state_dict(), import_weights.run(config)


def test_an_imagenet_resnet_becomes_a_model_directory_with_a_key_report(imported):
    source, result = imported
    assert sorted(result["unexpected"]) == ["fc.bias", "fc.weight"]
    assert result["missing"] and all(not name.startswith("encoder.") for name in result["missing"])
    parser, card = model_directory.read_model(result["out"])
    assert card.taxonomy.name == "lapa" and card.preprocessing.size == 473
    assert all(torch.equal(value, source[name]) for name, value in parser.encoder.state_dict().items())


def test_training_takes_the_imported_encoder_and_how_its_pixels_are_prepared(imported, faces):
    source, result = imported
    parser, card = model_directory.read_model(result["out"])
    bgr = Preprocessing(size=473, channel_order="bgr")
    model_directory.write_model(result["out"] + "-bgr", parser, replace(card, preprocessing=bgr))
    config = TrainConfig(
        data=str(faces), out="/unused", init=result["out"] + "-bgr", model={"width": 1.0}, input={"size": 64}
    )
    assert setup.model_card(config, CELEBAMASK_HQ).preprocessing == replace(bgr, size=64)
    network = setup.build_network(config, CELEBAMASK_HQ)
    assert all(torch.equal(value, source[name]) for name, value in network.encoder.state_dict().items())


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"weights\.pth"):
        import_weights.run(ImportWeightsConfig(checkpoint=str(file), taxonomy="lapa", out=str(tmp_path / "m")))
    assert not (tmp_path / "m").exists()
