"""Data sets, raw folders and runs that several files of tests use."""

import numpy as np
import pytest
import yaml

import ray_job
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines.config.commands import RelabelConfig, SynthConfig
from pipelines.data import dataset, images, packing
from pipelines.ingest import synth
from pipelines.relabeling import relabel
from pipelines.run import result_file
from pipelines.training import train
from tests.support.data_sets import rows_of
from tests.support.relabelling import BAD, HALF, NARROW, NUM_ROWS, SUSPECTS, UNLABELLED, narrow, write_model
from tests.support.training import CSR, smoke, sweep


@pytest.fixture(scope="session")
def raw(ray_cluster, tmp_path_factory):
    """A raw paired folder of 20 faces."""
    out = tmp_path_factory.mktemp("raw") / "pairs"
    synth.run(SynthConfig(out=str(out), num_images=20, image_size=64, layout="pairs"))
    return out


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def mixed(faces, tmp_path_factory):
    """120 training rows in eight files: every tenth label of half the size, every sixth missing, every fifth picture
    narrow and with ignored pixels, two rows damaged."""
    out = str(tmp_path_factory.mktemp("mixed") / "data")
    known = rows_of(faces)
    rows = [dict(known[number % len(known)], id=f"row/{number:03d}") for number in range(NUM_ROWS)]
    for number in NARROW:
        rows[number] |= narrow(rows[number])
    for number in HALF:
        label = images.decode_label(rows[number]["label"])
        rows[number]["label"] = images.encode_png(label[::2, ::2])
    for number in UNLABELLED:
        rows[number]["label"] = None
    rows[BAD[0]]["image"] = b"no image"
    rows[BAD[1]]["label"] = images.encode_png(np.full((96, 96), 77, np.uint8))
    parts = [rows[start : start + 16] for start in range(0, NUM_ROWS, 16)]
    files = {
        "train": [dataset.write_file(out, f"train/part-{number:05d}", part) for number, part in enumerate(parts)],
        "val": [dataset.write_file(out, "val/part-00000", known[:5])],
    }
    packing.write_manifest(out, CELEBAMASK_HQ, files, [], {"command": "test"})
    return out


@pytest.fixture(scope="session")
def replaced(mixed, model, tmp_path_factory):
    config = RelabelConfig(
        model=model,
        data=mixed,
        out=str(tmp_path_factory.mktemp("replaced") / "data"),
        policy="replace",
        suspects=SUSPECTS,
    )
    return config, relabel.run(config)


@pytest.fixture(scope="session")
def regulated(faces, tmp_path_factory):
    """An undisturbed run of two cycles, and what it returned."""
    config = smoke(faces, tmp_path_factory.mktemp("cycles") / "run", **CSR)
    return config, result_file.run_and_record("train", config, train.run)


@pytest.fixture(scope="session")
def swept(faces, tmp_path_factory):
    """A finished sweep that the command line has made, and its result."""
    folder = tmp_path_factory.mktemp("sweep")
    config = sweep(faces, folder / "run")
    (folder / "sweep.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert ray_job.main(["tune", "--config", str(folder / "sweep.yaml")]) == 0
    return config, result_file.finished_result(config.out, "tune")
