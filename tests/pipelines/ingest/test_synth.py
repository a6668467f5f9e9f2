import json

import cv2
import numpy as np
import pytest

from dmlcsr.synthetic import render_face
from pipelines import storage
from pipelines.config.commands import SynthConfig
from pipelines.data import dataset
from pipelines.errors import OutputTakenError
from pipelines.ingest import synth
from pipelines.run import claims
from tests.support.data_sets import rows_of


def test_rows_are_faces_with_exact_labels_and_the_corruption_is_recorded(faces):
    clean = corrupted = 0
    for row in rows_of(faces):
        truth = render_face(0, int(row["id"][-6:]), 96).label
        label = cv2.imdecode(np.frombuffer(row["label"], np.uint8), cv2.IMREAD_UNCHANGED)
        corruption = json.loads(row["meta"])["corruption"]
        assert (label == truth).all() == (corruption is None)
        clean, corrupted = clean + (corruption is None), corrupted + (corruption is not None)
    assert clean > 10 and corrupted > 10


def test_only_training_labels_are_corrupted(faces):
    for split in ("val", "test"):
        assert all(json.loads(row["meta"])["corruption"] is None for row in rows_of(faces, split))


def test_noise_changes_labels_and_nothing_else(faces, tmp_path):
    synth.run(SynthConfig(out=str(tmp_path / "clean"), num_images=60, image_size=96))
    noisy, clean = rows_of(faces), rows_of(tmp_path / "clean")
    assert [(row["id"], row["image"]) for row in noisy] == [(row["id"], row["image"]) for row in clean]
    assert [row["label"] for row in noisy] != [row["label"] for row in clean]


def test_the_same_command_again_does_nothing_and_another_is_refused(faces):
    before = storage.read_bytes(storage.join(str(faces), dataset.MANIFEST))
    config = SynthConfig(out=str(faces), num_images=60, image_size=96, label_noise=0.5)
    assert synth.run(config)["num_rows"] == {"train": 48, "val": 6, "test": 6}
    with pytest.raises(OutputTakenError, match="was begun with seed = 0, not 1"):
        synth.run(config.model_copy(update={"seed": 1}))
    assert storage.read_bytes(storage.join(str(faces), dataset.MANIFEST)) == before


def test_an_interrupted_build_is_continued_to_the_same_data_set(faces, tmp_path):
    config = SynthConfig(out=str(tmp_path / "again"), num_images=60, image_size=96, label_noise=0.5)
    claims.write_claim("synth", config, config.out)  # what a killed build leaves: its claim, and perhaps a file
    storage.write_bytes(storage.join(config.out, "train", "part-00000.parquet"), b"half")
    synth.run(config)
    assert dataset.read_manifest(config.out).digest == dataset.read_manifest(str(faces)).digest


def test_a_local_cluster_listens_on_loopback_only(ray_cluster):
    import ray

    assert ray.get_runtime_context().gcs_address.startswith("127.0.0.1:")
    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
