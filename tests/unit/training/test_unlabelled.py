"""A data set without labels: every command that needs labels says so before a cluster starts."""

import cv2
import numpy as np
import pytest
import ray

import ray_job
from pipelines.config.base import SPLITS
from pipelines.config.commands import RelabelConfig
from pipelines.data import dataset, packing
from pipelines.data.dataset import Row
from pipelines.errors import UserError
from pipelines.relabeling import folds
from tests.support.relabelling import write_model


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("faces") / "data")
    image = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    rows = [Row(id=f"{n}", image=image, label=None, height=32, width=32, meta="{}") for n in range(40)]
    files = {split: [dataset.write_file(out, f"{split}/part-00000", rows)] for split in SPLITS}
    packing.write_manifest(out, None, files, [], {"command": "ingest"})
    return out


@pytest.mark.parametrize("command", ["train", "tune", "evaluate", "plan train", "plan evaluate"])
def test_faces_without_labels_are_refused_with_what_to_do(faces, tmp_path, capsys, command):
    argv = [*command.split(), "--data", faces, "--out", str(tmp_path / "out")]
    argv += ["--model", write_model(tmp_path / "model")] if "evaluate" in command else []
    argv += ["--num-trials", "1"] if command == "tune" else []
    code = ray_job.main(argv)
    shown = capsys.readouterr()
    sentence = (
        f"the faces of {faces} have no labels; make a labelled version with `relabel --model MODEL --data {faces} "
        "--out NEW` and use that"
    )
    if command.startswith("plan"):
        assert code == 0 and f"missing: {sentence}\n" in shown.out
    else:
        assert code == 2 and shown.err == f"error: {sentence}\n"
    assert not ray.is_initialized() and not (tmp_path / "out" / "claim.json").exists()


def test_folds_are_not_trained_on_faces_without_labels(faces, tmp_path):
    config = RelabelConfig(model=str(tmp_path / "run"), data=faces, out=str(tmp_path / "out"), folds=2)
    with pytest.raises(UserError, match=r"--folds trains models on .*, whose faces have no labels; omit it"):
        folds.check(config, dataset.read_manifest(faces))
