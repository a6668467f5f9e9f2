"""Every reader of configuration, runs and models: whatever the bytes hold, it answers, or says why it cannot.

Nothing but the documented error may come out. `make test-faults` runs the same with twenty times as many examples.
"""

import io
import json
import zipfile
from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import AdamW

from dmlcsr.model import Architecture, FaceParser
from dmlcsr.pretrained import read_checkpoint
from dmlcsr.taxonomy import CELEBAMASK_HQ
from dmlcsr.weights import MODEL_FILES, ModelCard, Preprocessing, pack_model
from pipelines import storage  # fmt: skip
from pipelines.config import options, plain_yaml
from pipelines.config.training import TrainConfig
from pipelines.errors import OutputTakenError, UserError
from pipelines.models import checkpoint, model_directory
from pipelines.regulation import ledger
from pipelines.regulation.ledger import Ledger
from pipelines.run import claims, lock, result_file, run_directory
from tests.support.damage import as_file, changed, damaged

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
        claims.find_claim("train", TrainConfig(data="/data", out=str(file.parent)), str(file.parent))


CLAIM = {"format_version": 2, "command": "train", "config": CONFIG, "inputs": {"data": "0" * 64}}


@given(as_file(CLAIM))
def test_a_claim_is_read_or_refused(tmp_path_factory, content):
    out = tmp_path_factory.mktemp("claim")
    (out / "claim.json").write_bytes(content)
    with suppress(UserError):
        run_directory.read_config(str(out))
    with suppress(UserError):
        claims.find_claim("train", TrainConfig(data="/data", out=str(out)), str(out), {"data": "0" * 64})


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
        claims.find_claim("train", TrainConfig(data="/data", out=str(tmp_path)), str(tmp_path))


# What a run has left.


def test_json_that_is_nested_too_deeply_is_refused(tmp_path):
    (tmp_path / "result.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="not valid JSON"):
        result_file.read(str(tmp_path))


RECORDS = [{"epoch": epoch, "time": 1e9, "val_mean_f1": 0.5, "loss_total": 1.0} for epoch in (1, 2)]


@given(
    st.tuples(*(changed(record).map(json.dumps) for record in RECORDS)).map("\n".join).map(str.encode)
    | damaged(["\n".join(map(json.dumps, RECORDS)).encode()])
)
def test_metrics_are_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "metrics.jsonl").write_bytes(content)
    with suppress(UserError):
        assert all({"epoch", "val_mean_f1"} <= record.keys() for record in run_directory.read_metrics(str(folder)))


@given(
    as_file({"id": "0" * 32, "host": "elsewhere", "pid": 1, "process_start": "1", "started_at": 1.0, "heartbeat": 2.0})
)
def test_the_owner_of_a_run_is_known_or_nobody(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("owner")
    (folder / lock.OWNER).write_bytes(content)
    assert isinstance(lock.last_heartbeat(str(folder)), float)


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
LEDGER[ledger.COPY] = {f"train/{name}": json.dumps(record) for name, record in LEDGER.items()}


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
        architecture=ARCHITECTURE, taxonomy=CELEBAMASK_HQ, preprocessing=Preprocessing(size=64),
        lineage={"origins": ["a"]},
    ),
)  # fmt: skip


@given(as_file(json.loads(MODEL["model.json"])))
def test_a_model_is_read_or_refused(tmp_path_factory, card):
    folder = tmp_path_factory.mktemp("model")
    for name, content in zip(MODEL_FILES, (MODEL["model.safetensors"], card), strict=True):
        (folder / name).write_bytes(content)
    with suppress(UserError):
        _, found = model_directory.read_model(str(folder))
        assert model_directory.has_seen(found, ["a"]) in (True, False, None)


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
    name = draws.draw(st.sampled_from([checkpoint.NETWORK, checkpoint.OPTIMIZER, checkpoint.HISTORY_FILE]))
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


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # damage may fall on the number of the protocol
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
