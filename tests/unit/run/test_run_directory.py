import json
import struct

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event
from torch import nn
from torch.optim import SGD, AdamW

from pipelines import storage
from pipelines.config.commands import SynthConfig
from pipelines.errors import RunFailedError, UserError
from pipelines.models import checkpoint
from pipelines.run import result_file, run_directory
from tests.support.commands import variables


def events(path):
    """(tag, step, value) of every scalar in an event file."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    return found


def test_metrics_are_rewritten_whole_for_people_and_for_tensorboard(tmp_path):
    history = [{"epoch": epoch, "time": 1e9 + epoch, "loss_total": 1 / epoch, "lr": 0.1} for epoch in (1, 2)]
    run_directory.write_metrics(str(tmp_path), history[:1])
    run_directory.write_metrics(str(tmp_path), history)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == history
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert sorted(events(file)) == sorted(
        [("loss_total", 1, 1.0), ("loss_total", 2, 0.5), ("lr", 1, pytest.approx(0.1)), ("lr", 2, pytest.approx(0.1))]
    )


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_restored_checkpoint_trains_on_bit_for_bit(tmp_path, kind):
    def make():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 3))
        network.to(memory_format=torch.channels_last)
        momentum = {"momentum": 0.9} if kind is SGD else {}
        return network, kind(network.parameters(), lr=0.01, fused=True, **momentum)

    def step(network, optimizer, seed):
        optimizer.zero_grad(set_to_none=True)
        network(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
        optimizer.step()

    network, optimizer = make()
    for seed in range(3):
        step(network, optimizer, seed)
    history = [{"epoch": 1, "time": 1e9, "val_mean_f1": 0.5}]
    checkpoint.save(tmp_path, network, optimizer, history)
    restored, restored_optimizer = make()
    assert checkpoint.load(tmp_path, restored, restored_optimizer) == history
    for seed in range(3, 6):
        step(network, optimizer, seed)
        step(restored, restored_optimizer, seed)
    state = network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in restored.state_dict().items())


def test_a_write_is_all_or_nothing_and_leaves_no_scratch(tmp_path):
    uri = str(tmp_path / "deep" / "file")
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_what_a_kill_leaves_of_a_write_does_not_make_a_folder_full(tmp_path):
    (tmp_path / ".dataset.json.0a1b").write_bytes(b"half")
    assert storage.is_empty(str(tmp_path)) and storage.is_empty(str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    assert not storage.is_empty(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_damaged_json_is_one_sentence(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json"):
        storage.read_json(str(tmp_path / "x.json"))


def test_credentials_that_are_refused_and_buckets_that_are_missing_are_one_sentence(s3):
    with pytest.raises(UserError, match="does not exist"):
        storage.read_bytes(f"{s3}-other/file")
    with variables({"AWS_SECRET_ACCESS_KEY": "wrong"}), pytest.raises(UserError, match="check AWS_SECRET_ACCESS_KEY"):
        storage.read_bytes(f"{s3}/file")


def synth_config(out):
    return SynthConfig(out=str(out))


def test_a_success_is_never_hidden_by_a_later_failure(tmp_path):
    def fail(_):
        raise RunFailedError("broke")

    result_file.mark_unfinished("synth", str(tmp_path))
    with pytest.raises(RunFailedError):
        result_file.run_and_record("synth", synth_config(tmp_path), fail)
    assert storage.read_json(str(tmp_path / "result.json"))["message"] == "broke"
    result_file.run_and_record("synth", synth_config(tmp_path), lambda config: {"out": config.out})
    with pytest.raises(RunFailedError):
        result_file.run_and_record("synth", synth_config(tmp_path), fail)
    assert result_file.finished_result(str(tmp_path), "synth") == {"out": str(tmp_path)}
    assert result_file.finished_result(str(tmp_path), "train") is None
