"""Every reader of bytes from outside: whatever they hold, it answers, or says in one sentence why it cannot.

Valid files are taken and damaged at random (bytes), or given other values (JSON, YAML). Nothing but the documented
error may come out. `make test-faults` runs the same with twenty times as many examples.
"""

import hashlib
import io
import json
import zipfile
from contextlib import suppress
from itertools import pairwise

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.optim import AdamW

from dmlcsr.model import Architecture, FaceParser
from dmlcsr.pretrained import read_checkpoint
from dmlcsr.taxonomy import CELEBAMASK_HQ
from dmlcsr.weights import MODEL_FILES, ModelCard, Preprocessing, pack_model
from pipelines import (
    checkpoint,
    checks,
    dataset,
    images,
    models,
    options,
    outcome,
    owner,
    packing,
    plain_yaml,
    reading,
    report,
    run_directory,
    sources,
    splits,
    storage,
    suspects,
)  # fmt: skip
from pipelines.checks import BadSampleError
from pipelines.config import IngestConfig, ReportConfig
from pipelines.dataset import Row
from pipelines.errors import OutputTakenError, UserError
from pipelines.images import encode_png
from pipelines.ledger import Ledger
from pipelines.training_config import TrainConfig

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8)
LABEL = encode_png(np.arange(480, dtype=np.uint8).reshape(24, 20) % 19)
PICTURES = [cv2.imencode(suffix, PIXELS)[1].tobytes() for suffix in (".jpg", ".png", ".webp", ".bmp", ".tiff")]


@st.composite
def damaged(draw, originals):
    """One of the originals, with some of its bytes changed, cut out, repeated or put in."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 16))
        inserted = draw(st.binary(max_size=8) | st.just(bytes(data[at : at + length])))
        data[at : at + draw(st.integers(0, length))] = inserted
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("../../outside"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value, place=()):
    """Where in a JSON value something could be replaced."""
    yield place
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*place, key))


@st.composite
def changed(draw, original):
    """The JSON value with another value somewhere, or without one."""
    value = json.loads(json.dumps(original))
    place = draw(st.sampled_from(list(places(value))))
    if not place:
        return draw(values)
    target = value
    for key in place[:-1]:
        target = target[key]
    if draw(st.booleans()):
        target[place[-1]] = draw(values)
    else:
        del target[place[-1]]
    return value


def as_file(original):
    """Bytes of a JSON file that is, or was, this value."""
    text = json.dumps(original).encode()
    return changed(original).map(lambda value: json.dumps(value).encode()) | damaged([text])


# Images and labels.


@given(damaged(PICTURES))
def test_an_image_is_decoded_or_refused(data):
    with suppress(BadSampleError):
        height, width = checks.check_image(data)
        assert images.decode_image(data).shape == (height, width, 3), "what is packed can be trained on"
    with suppress(ValueError):
        assert images.decode_image(data, factor=4).dtype == np.uint8


@given(damaged([LABEL, PICTURES[1]]))
def test_a_label_is_decoded_or_refused(data):
    with suppress(BadSampleError):
        checks.check_label(checks.decode_ids(data), (24, 20), CELEBAMASK_HQ)
    with suppress(ValueError):
        assert images.decode_label(data).ndim == 2


def test_a_small_file_that_claims_many_pixels_is_refused_before_they_are_made():
    picture = io.BytesIO()
    Image.new("L", (20_000, 20_000)).save(picture, "PNG")
    assert len(picture.getvalue()) < 1_000_000
    for read in (checks.check_image, checks.decode_ids):
        with pytest.raises(BadSampleError) as refused:
            read(picture.getvalue())
        assert refused.value.reason == "too_large"


def test_a_file_whose_format_would_start_another_program_is_no_image():
    drawing = io.BytesIO()
    Image.fromarray(PIXELS).save(drawing, "EPS")
    with pytest.raises(BadSampleError, match="not an image"):
        checks.check_image(drawing.getvalue())


# Data sets.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("data") / "set")
    rows = [Row(id=f"row/{n}", image=PICTURES[n], label=LABEL, height=24, width=20, meta="{}") for n in range(5)]
    file = dataset.write_file(out, "train/part-00000.parquet", rows, rows_per_group=2)
    assert file is not None
    packing.commit(out, CELEBAMASK_HQ, {"train": [file]}, [], {"command": "ingest"}, rows_per_group=2)
    return out


def read_all(uri, manifest):
    source = reading.open_split(uri, manifest, "train")
    groups = reading.groups_of(source)
    pieces = [
        reading.Piece(int(file), int(group), 0, int(rows))
        for file, group, rows in zip(groups.file, groups.group, groups.num_rows, strict=True)
    ]
    return reading.read_rows(source, pieces, dataset.SCHEMA.names)


@given(draws=st.data())
def test_a_manifest_is_read_or_refused_and_names_no_file_elsewhere(data, draws, tmp_path_factory):
    original = storage.read_json(f"{data}/dataset.json")
    folder = tmp_path_factory.mktemp("manifest")
    (folder / "dataset.json").write_bytes(draws.draw(as_file(original)))
    with suppress(UserError):
        manifest = dataset.read_manifest(str(folder))
        for split, files in manifest.splits.items():
            assert all(file.path.startswith(f"{split}/") or ".." not in file.path for file in files)


@pytest.mark.parametrize("path", ["../../etc/part.parquet", "/etc/part.parquet", "train/../../x.parquet", "train/.x"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(data, tmp_path, path):
    content = storage.read_json(f"{data}/dataset.json")
    content["splits"]["train"][0]["path"] = path
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is damaged at"):
        dataset.read_manifest(str(tmp_path))


@given(draws=st.data())
def test_the_rows_of_a_damaged_file_are_read_or_refused(data, draws, tmp_path_factory):
    manifest = dataset.read_manifest(data)
    path = manifest.splits["train"][0].path
    content = draws.draw(damaged([storage.read_bytes(f"{data}/{path}")]))
    folder = tmp_path_factory.mktemp("rows")
    storage.write_bytes(f"{folder}/{path}", content)
    other = manifest.model_copy(update={"digest": hashlib.sha256(content).hexdigest()})
    with suppress(UserError):
        assert len(read_all(str(folder), other)) == 5


@pytest.mark.parametrize("kind", ["compressed", "repeated", "other columns", "fewer rows"])
def test_rows_that_this_program_did_not_write_are_refused(data, tmp_path, kind):
    manifest = dataset.read_manifest(data)
    path = manifest.splits["train"][0].path
    table = pq.read_table(f"{data}/{path}")
    (tmp_path / "train").mkdir()
    options = {"compression": "none", "use_dictionary": False, "row_group_size": 2}
    if kind == "compressed":
        options["compression"] = "zstd"
    elif kind == "repeated":
        options["use_dictionary"] = True
    elif kind == "other columns":
        table = table.set_column(1, "image", pa.array(["text"] * 5))
    else:
        table = table.slice(0, 3)
    pq.write_table(table, tmp_path / path, **options)
    with pytest.raises(UserError, match=r"part-00000\.parquet"):
        read_all(str(tmp_path), manifest.model_copy(update={"digest": kind}))


@given(as_file({"worst": [[0.5, "row/1", "train/part-00000.parquet", 1], [0.6, "a", "train/part-00000.parquet", 0]]}))
def test_the_list_of_suspects_is_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("worst")
    (folder / suspects.WORST).write_bytes(content)
    with suppress(UserError):
        assert all(isinstance(suspect.quality, float) for suspect in suspects.worst(str(folder)))


RELABELLED = {
    "num_rows": 5, "num_changed": 2, "num_pixels": 100, "num_changed_pixels": 7,
    "changed_pixels": {"skin > hair": 7}, "mean_quality": 0.5, "class_quality": {"skin": 0.5},
}  # fmt: skip


@given(relabelled=changed(RELABELLED), lineage=changed({"command": "relabel", "splits": ["train"], "tta": False}))
def test_a_page_about_a_data_set_is_written_or_refused(data, tmp_path_factory, relabelled, lineage):
    folder = tmp_path_factory.mktemp("reported")
    content = storage.read_json(f"{data}/dataset.json") | {"relabelled": relabelled, "lineage": lineage}
    (folder / "dataset.json").write_text(json.dumps(content))
    (folder / suspects.WORST).write_text('{"worst": [[0.5, "row/1", "train/part-00000.parquet", 1]]}')
    with suppress(UserError):
        report.run(ReportConfig(run=str(folder), out=f"{folder}/page.html"))


# Lists in raw folders.


@pytest.mark.parametrize("name", ["split", "helen", "celeba", "list"])
@given(content=damaged([b"1 , a/b\n2,c\n", b"a train\nb/c test\n", b"images/a.jpg labels/a.png\n", b"0 1 01.jpg\n"]))
def test_lists_of_raw_data_are_read_or_refused(tmp_path_factory, name, content):
    folder = tmp_path_factory.mktemp("lists")
    names = {"split": ["split.txt"], "helen": list(splits.HELEN_LISTS), "celeba": [splits.CELEBA_MAPPING]}
    for file in names.get(name, ["train_list.txt"]):
        (folder / file).write_bytes(content)
    with suppress(UserError):
        if name == "split":
            assert set(splits.from_file(f"{folder}/split.txt").values()) <= set(dataset.SPLITS)
        elif name == "list":
            config = IngestConfig(format="pairs", taxonomy="lapa", source=str(folder), out=f"{folder}/out")
            found = sources.list_source(config)
            assert all(sample.image.startswith(f"{folder}/") for each in found.samples.values() for sample in each)
        else:
            (splits.helen if name == "helen" else splits.celeba)(str(folder))


# Configuration.

CONFIG = TrainConfig(data="/data", out="/out").model_dump(mode="json")


@given(changed(CONFIG).map(lambda value: plain_yaml.dump(value).encode()) | damaged([plain_yaml.dump(CONFIG).encode()]))
def test_a_configuration_file_is_read_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    file.write_bytes(content)
    with suppress(UserError):
        flags = options.parse("train", TrainConfig, ["--config", str(file), "--data", "/d", "--out", "/o"], True)
        assert options.resolve(TrainConfig, flags).data == "/d"
    with suppress(UserError):
        run_directory.read_config(str(file.parent))
    with suppress(UserError):
        run_directory.belongs(TrainConfig(data="/data", out=str(file.parent)), "digest")


@given(st.text(max_size=12) | st.sampled_from(["2001-13-45", "!!timestamp x", "!!bool x", "&a *a", "9" * 5000]))
def test_a_flag_is_understood_or_refused(text):
    with suppress(UserError):
        flags = options.parse("train", TrainConfig, ["--data=/d", "--out=/o", f"--seed={text}"], True)
        assert isinstance(options.resolve(TrainConfig, flags).seed, int)


BOMB = "".join(f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]\n" for last, name in pairwise("abcdefghi"))
HOSTILE = {
    "a program": "!!python/object/apply:os.system ['touch made']",
    "an alias of aliases": f"a: &a [1]\n{BOMB}",
    "nested too deeply": "[" * 100_000,
    "a date that is none": "seed: 2001-13-45",
    "a key that is no text": "input:\n  on: 30.0",
    "a very long number": f"seed: 0x{'f' * 4000}",
    "too long": "a" * 2_000_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_yaml_is_refused_at_once(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(HOSTILE[kind])
    flags = options.parse("train", TrainConfig, ["--config=config.yaml", "--data=/d", "--out=/o"], True)
    with pytest.raises(UserError) as refused:
        options.resolve(TrainConfig, flags)
    assert len(str(refused.value)) < 1000
    assert not (tmp_path / "made").exists()
    with pytest.raises(OutputTakenError):
        run_directory.belongs(TrainConfig(data="/data", out=str(tmp_path)), "digest")


# What a run has left.


def test_json_that_is_nested_too_deeply_is_refused(tmp_path):
    (tmp_path / "result.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="not valid JSON"):
        outcome.read(str(tmp_path))


RECORDS = [{"epoch": epoch, "time": 1e9, "val_mean_f1": 0.5, "loss_total": 1.0} for epoch in (1, 2)]


@given(
    st.tuples(*(changed(record).map(json.dumps) for record in RECORDS)).map("\n".join).map(str.encode)
    | damaged(["\n".join(map(json.dumps, RECORDS)).encode()])
)
def test_metrics_are_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("metrics")
    (folder / run_directory.METRICS).write_bytes(content)
    with suppress(UserError):
        assert all({"epoch", "val_mean_f1"} <= record.keys() for record in run_directory.read_metrics(str(folder)))


@given(as_file({"id": "x", "host": "elsewhere", "pid": 1, "born": "1", "since": 1.0, "beat": 2.0}))
def test_the_owner_of_a_run_is_known_or_nobody(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("owner")
    (folder / owner.OWNER).write_bytes(content)
    assert isinstance(owner.last_beat(str(folder)), float)


WEIGHTS = {"uri": "/run/x.safetensors", "sha256": "0" * 64}
LEDGER = {
    "student-001.json": {"version": 1, "trial": "train", "cycle": 1, "weights": WEIGHTS, "val_mean_f1": 0.5},
    "ensemble-001.json": {
        "version": 1, "trial": "train", "cycle": 1, "weights": WEIGHTS, "val_mean_f1": 0.5,
        "coefficients": {"train/0": 0.5, "train/1": 0.5},
    },
    "trial.json": {"version": 1, "trial": "train", "architecture": {}, "taxonomy": "lapa", "num_cycles": 2},
    "teacher-001.json": {"version": 1, "trial": "train", "cycle": 1, "soup": None},
    "end.json": {"version": 1, "trial": "train", "state": "finished"},
}  # fmt: skip


@pytest.mark.parametrize("name", LEDGER)
@given(draws=st.data())
def test_a_ledger_is_read_or_refused(tmp_path_factory, name, draws):
    folder = tmp_path_factory.mktemp("ledger")
    content = draws.draw(as_file(LEDGER[name]))
    storage.write_bytes(f"{folder}/ledger/train/{name}", content)
    with suppress(UserError):
        Ledger(str(folder)).summary()


ARCHITECTURE = Architecture(num_classes=19, depth=18, width=0.05)
MODEL = pack_model(
    FaceParser(ARCHITECTURE).eval(),
    ModelCard(
        architecture=ARCHITECTURE, taxonomy="celebamask_hq", preprocessing=Preprocessing(size=64),
        lineage={"origins": ["a"]},
    ),
)  # fmt: skip


@given(as_file(json.loads(MODEL["model.json"])))
def test_a_model_is_read_or_refused(tmp_path_factory, card):
    folder = tmp_path_factory.mktemp("model")
    for name, content in zip(MODEL_FILES, (MODEL["model.safetensors"], card), strict=True):
        (folder / name).write_bytes(content)
    with suppress(UserError):
        _, found = models.read_model(str(folder))
        assert models.has_seen(found, "a") in (True, False, None)


def small_training():
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    return network, AdamW(network.parameters())


@given(draws=st.data())
def test_a_checkpoint_is_restored_or_refused(draws, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    network, optimizer = small_training()
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint.save(folder, network, optimizer, RECORDS)
    name = draws.draw(st.sampled_from([checkpoint.NETWORK, checkpoint.OPTIMIZER, checkpoint.PROGRESS]))
    original = (folder / name).read_bytes()
    (folder / name).write_bytes(draws.draw(damaged([original]) | as_file({"history": RECORDS})))
    with suppress(UserError):
        assert isinstance(checkpoint.load(folder, *small_training()), list)


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


STATE = {"layer.weight": torch.ones(2, 3)}
PTH = [saved(STATE), saved(STATE, _use_new_zipfile_serialization=False)]


@given(damaged(PTH))
def test_the_authors_checkpoint_is_imported_or_refused(data):
    with suppress(ValueError):
        assert all(isinstance(value, torch.Tensor) for value in read_checkpoint(data).values())


def test_a_compressed_checkpoint_is_refused():
    """torch writes none, and a few kilobytes could stand for any number of weights."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(PTH[0])) as original, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as parts:
        for name in original.namelist():
            parts.writestr(name, original.read(name))
    with pytest.raises(ValueError, match="neither"):
        read_checkpoint(packed.getvalue())
