"""`predict`: what it writes for each photo, which photos it lists instead, and how it goes on after a kill."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from dmlcsr.predict import Predictor
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines.config.commands import PredictConfig
from pipelines.data import images
from pipelines.errors import OutputTakenError, UserError
from pipelines.inference import predict
from pipelines.models import model_directory
from pipelines.run import result_file
from tests.support.commands import DATA
from tests.support.relabelling import write_model

LONG = "顔" * 75


@pytest.fixture(scope="module")
def loose(ray_cluster, tmp_path_factory):
    """Loose images of several kinds and sizes, three of them unusable, one in a folder below."""
    folder = tmp_path_factory.mktemp("loose")
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (50, 80)), ("b.jpg", (120, 60)), ("below/c.png", (64, 64)), ("d.avif", (40, 30))):
        (folder / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (*shape, 3)).astype(np.uint8))
    cv2.imwrite(str(folder / "deep.png"), np.full((9, 9, 3), 999, np.uint16))
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "e.heic").write_bytes((DATA / "turned.heic").read_bytes())
    for name in ("a.jpg", f"{LONG}.jpg", "f.jfif"):
        (folder / name).write_bytes((folder / "b.jpg").read_bytes())
    return folder


@pytest.fixture(scope="module")
def labelled(model, loose, tmp_path_factory):
    out = tmp_path_factory.mktemp("labelled") / "out"
    config = PredictConfig(model=model, images=str(loose), out=str(out))
    return config, out, result_file.run_and_record("predict", config, predict.run)


def listed(table: Path):
    return {row["source"]: (row["reason"], row["detail"]) for row in pq.read_table(table).to_pylist()}


def test_photos_of_all_kinds_get_label_maps_of_their_own_size(loose, labelled):
    _, out, result = labelled
    ((_, detail),) = listed(out / "remarks").values()
    long = detail.removeprefix("its results are named ")
    shapes = {
        str(path.relative_to(out / "labels")): cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape
        for path in (out / "labels").rglob("*.png")
    }
    assert shapes == {
        "a.png.png": (50, 80), "a.jpg.png": (120, 60), "b.png": (120, 60), "below/c.png": (64, 64), "d.png": (40, 30),
        "e.png": (80, 60), "f.png": (120, 60), f"{long}.png": (120, 60),
    }  # fmt: skip
    assert long.startswith(LONG[:40]) and result["remarks"] == {"renamed": 1}
    assert result["num_images"] == len(shapes)


def test_unusable_photos_are_listed_with_the_reasons_of_ingest(loose, labelled):
    _, out, result = labelled
    found = {Path(source).name: reason for source, (reason, _) in listed(out / "quarantine").items()}
    assert found == {"deep.png": "color_mode", "broken.jpg": "undecodable", "empty.jpg": "empty_file"}
    assert result["num_quarantined"] == 3
    assert result["reasons"] == {"color_mode": 1, "empty_file": 1, "undecodable": 1}


def test_labels_are_those_of_the_model_and_their_colors_lie_beside_them(model, loose, labelled):
    _, out, _ = labelled
    label = cv2.imread(str(out / "labels/b.png"), cv2.IMREAD_UNCHANGED)
    image = images.decode_image((loose / "b.jpg").read_bytes())
    assert (label == Predictor(*model_directory.read_model(model)).label_map(image)).all()
    colors = cv2.imread(str(out / "colors/b.png"), cv2.IMREAD_COLOR_RGB)
    assert (colors == CELEBAMASK_HQ.colorize(label)).all()
    assert cv2.imread(str(out / "overlays/b.png")).shape[0] > 120, "the picture, above a legend"


def test_the_classes_are_listed_with_ids_colors_and_sides(labelled):
    _, out, _ = labelled
    table = json.loads((out / "classes.json").read_text())
    assert [entry["name"] for entry in table] == list(CELEBAMASK_HQ.classes)
    assert [entry["id"] for entry in table] == list(range(19))
    assert [tuple(entry["color"]) for entry in table] == list(CELEBAMASK_HQ.palette)
    assert [entry["side"] for entry in table] == [CELEBAMASK_HQ.side_of(part) for part in range(19)]
    assert {entry["side"] for entry in table} == {"left", "right", None}


def test_the_same_command_continues_with_the_pieces_that_are_missing(labelled, tmp_path):
    config, out, result = labelled
    shutil.copytree(out, tmp_path / "out")
    receipts = sorted((tmp_path / "out/receipts").rglob("*.json"))
    assert len(receipts) > 1, "several pieces"
    shutil.rmtree(tmp_path / "out/labels")
    receipts[0].unlink()
    (tmp_path / "out/result.json").unlink()
    again = predict.run(config.model_copy(update={"out": str(tmp_path / "out")}))
    assert {**again, "out": None} == {**result, "out": None}
    assert len(list((tmp_path / "out/labels").rglob("*.png"))) == 1


def test_another_model_needs_another_output(labelled, loose, tmp_path):
    config, _, _ = labelled
    other = write_model(tmp_path / "model", seed=1)
    with pytest.raises(OutputTakenError, match="begun with model"):
        predict.run(PredictConfig(model=other, images=str(loose), out=config.out))


@pytest.mark.faults
def test_two_plans_of_half_the_pieces_give_the_same_result(labelled, tmp_path, monkeypatch):
    config, out, result = labelled
    num_pieces = len(list((out / "receipts").rglob("*.json")))
    monkeypatch.setattr(predict, "PLAN_PIECES", num_pieces // 2 + 1)
    again = predict.run(config.model_copy(update={"out": str(tmp_path / "out")}))
    assert {**again, "out": None} == {**result, "out": None}


def test_a_folder_without_images_is_an_error(model, tmp_path):
    with pytest.raises(UserError, match="holds no image"):
        predict.run(PredictConfig(model=model, images=str(tmp_path), out=str(tmp_path / "out")))


def test_a_folder_of_unusable_images_is_an_error_that_names_the_first(ray_cluster, model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"")
    config = PredictConfig(model=model, images=str(tmp_path / "photos"), out=str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"a\.jpg: empty_file"):
        predict.run(config)
    assert len(listed(tmp_path / "out/quarantine")) == 1
