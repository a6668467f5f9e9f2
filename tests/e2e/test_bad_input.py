"""What users get wrong, each through the real command line: exit code 2, one sentence, and nothing is damaged.

Where neither Ray nor the environment matters the command line runs in this process, which saves seconds each.
"""

import json

import numpy as np
import pytest

from dmlcsr.model import Architecture, FaceParser
from dmlcsr.taxonomy import CELEBAMASK_HQ, LAPA
from dmlcsr.weights import ModelCard, Preprocessing
from pipelines import storage
from pipelines.config.base import SPLITS
from pipelines.config.commands import SynthConfig
from pipelines.data import dataset, packing
from pipelines.data.dataset import Manifest, Row
from pipelines.data.images import encode_png
from pipelines.models import model_directory
from pipelines.run import claims
from tests.support.commands import Finished, run_command, variables


def refused(done: Finished, *parts: str) -> None:
    assert done.code == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for part in parts:
        assert part in lines[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tiny packed data set of the taxonomy celebamask_hq."""
    out = str(tmp_path_factory.mktemp("bad") / "data")
    png = encode_png(np.zeros((32, 32, 3), np.uint8))
    rows = [
        Row(id=f"{n}", image=png, label=encode_png(np.eye(32, dtype=np.uint8)), height=32, width=32, meta="{}")
        for n in range(4)
    ]
    files = {split: (dataset.write_file(out, f"{split}/part-00000", rows),) for split in SPLITS}
    manifest = Manifest(label_taxonomy=CELEBAMASK_HQ, splits=files, digest=dataset.digest_of(files))
    dataset.finish_build(out, manifest.model_dump(mode="json"))
    return out


def copy_of(data, out, change):
    """The data set with another manifest."""
    content = storage.read_json(f"{data}/dataset.json")
    (out / "dataset.json").write_text(change(content))
    return out


EARLIER = {"format_version": 2, "taxonomy": "celebamask_hq", "classes": ["background"]}
MANIFESTS = {
    "missing": (None, "is not a data set: it has no dataset.json"),
    "half-written": (lambda c: json.dumps(c)[:200], "half-written or not ours"),
    "empty": (lambda c: "", "half-written or not ours"),
    "another version": (
        lambda c: json.dumps(c | {"format_version": dataset.FORMAT_VERSION + 1}),
        f"has format version {dataset.FORMAT_VERSION + 1}; this release reads 1 to {dataset.FORMAT_VERSION}",
    ),
    "damaged": (lambda c: json.dumps(c | {"splits": {"train": [{"path": 1}]}}), "is damaged at"),
    "unknown taxonomy": (lambda c: json.dumps(c | EARLIER | {"taxonomy": "cats"}), "unknown taxonomy 'cats'"),
    "other classes": (lambda c: json.dumps(c | EARLIER), "other classes than the taxonomy"),
    "damaged taxonomy": (lambda c: json.dumps(c | {"taxonomy": {"name": "cats"}}), "is damaged at"),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_data_set_whose_manifest_cannot_be_used(data, tmp_path, kind, run_here):
    change, message = MANIFESTS[kind]
    if change is not None:
        copy_of(data, tmp_path, change)
    refused(run_here("train", "--data", tmp_path, "--out", tmp_path / "run"), message, str(tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_taxonomy(data, tmp_path, run_here):
    architecture = Architecture(num_classes=11, depth=18, width=0.125)
    card = ModelCard(architecture=architecture, taxonomy=LAPA, preprocessing=Preprocessing(size=64))
    model_directory.write_model(str(tmp_path / "model"), FaceParser(architecture), card)
    done = run_here("evaluate", "--model", tmp_path / "model", "--data", data, "--out", tmp_path / "scores")
    refused(done, "lapa", "celebamask_hq")
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("uri", ["gs://bucket/data", "http://host/data", "s3://", "hdfs:///data"])
def test_a_uri_of_an_unknown_scheme(uri, tmp_path, run_here):
    refused(run_here("train", "--data", uri, "--out", tmp_path / "run"), uri, "s3://bucket/key")


def test_an_output_that_cannot_be_written(tmp_path, run_here):
    (tmp_path / "file").write_text("not a folder")
    refused(run_here("synth", "--out", "/proc/none/data"), "cannot write /proc/none/data")
    refused(run_here("synth", "--out", tmp_path / "file" / "data"), str(tmp_path / "file" / "data"))
    assert (tmp_path / "file").read_text() == "not a folder"


def test_an_output_that_holds_another_data_set(data, run_here):
    before = {uri: storage.read_bytes(uri) for uri in storage.list_files(data)}
    refused(run_here("synth", "--out", data, "--seed", 9), data, "already holds a data set without claim.json")
    assert {uri: storage.read_bytes(uri) for uri in storage.list_files(data)} == before


def test_an_output_that_holds_an_unfinished_build_of_another_data_set(tmp_path, run_here):
    claims.write_claim("synth", SynthConfig(out=str(tmp_path), seed=5), str(tmp_path))
    refused(run_here("synth", "--out", tmp_path, "--seed", 4), "was begun with seed = 5, not 4")


def test_wrong_credentials(s3, tmp_path, run_here):
    with variables({"AWS_SECRET_ACCESS_KEY": "wrong"}):
        done = run_here("train", "--data", f"{s3}/data", "--out", tmp_path / "run")
        refused(done, f"{s3}/data", "check AWS_SECRET_ACCESS_KEY")
        done = run_here("synth", "--out", f"{s3}/new")
    refused(done, f"{s3}/new", "check AWS_SECRET_ACCESS_KEY")
    assert "wrong" not in done.stderr, "the secret itself is not shown"


def test_no_credentials_at_all(s3, tmp_path):
    """In a process of its own, which has not had credentials before."""
    done = run_command(
        "train", "--data", f"{s3}/data", "--out", tmp_path / "run", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY=""
    )
    refused(done, f"{s3}/data", "credentials")


def test_a_missing_bucket(s3, tmp_path, run_here):
    refused(run_here("train", "--data", f"{s3}-typo/data", "--out", tmp_path / "run"), f"{s3}-typo/data")
    refused(run_here("synth", "--out", f"{s3}-typo/data"), "there is no bucket faces-typo; create it first")
    source = f"{s3}-typo/raw"
    done = run_here("ingest", "--format", "lapa", "--source", source, "--out", tmp_path / "out")
    refused(done, f"cannot list {source}: it does not exist")


def test_a_source_that_is_not_of_the_format(tmp_path, run_here):
    (tmp_path / "a.txt").write_text("x")
    done = run_here("ingest", "--format", "helen", "--source", tmp_path, "--out", tmp_path / "out")
    refused(done, "holds no helen samples: expected images/<name>.jpg", "found 1 .txt (such as a.txt)")


def test_a_relabelling_with_too_many_bad_rows_ends_with_its_sentence(tmp_path):
    """Nothing follows it: a stream that is left open would have Ray start another cluster to close it."""
    data, out = str(tmp_path / "data"), tmp_path / "out"
    label = encode_png(np.zeros((8, 8), np.uint8))
    rows = [Row(id=f"{n:02d}", image=b"no image", label=label, height=8, width=8, meta="{}") for n in range(64)]
    file = dataset.write_file(data, "train/part-00000", rows)
    packing.write_manifest(data, CELEBAMASK_HQ, {"train": [file]}, [], {})
    architecture = Architecture(num_classes=19, depth=18, width=0.125)
    card = ModelCard(architecture=architecture, taxonomy=CELEBAMASK_HQ, preprocessing=Preprocessing(size=64))
    model_directory.write_model(str(tmp_path / "model"), FaceParser(architecture).eval(), card)
    done = run_command("relabel", "--model", tmp_path / "model", "--data", data, "--out", out)
    assert done.code == 2 and "rows of" in done.stderr.strip().splitlines()[-1], done.stderr
    assert json.loads((out / "result.json").read_text())["exit_code"] == 2
    assert not (out / dataset.MANIFEST).exists()
