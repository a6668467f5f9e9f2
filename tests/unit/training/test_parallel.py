"""What the options of `gpu` make of a network, as far as a machine without a GPU shows it."""

import pytest
import torch

from pipelines.training import parallel
from tests.support.training import smoke


def on_gpus(tmp_path, num_workers=2, batch_size=8, use_gpu=True, **gpu):
    workers = {"num_workers": num_workers, "use_gpu": use_gpu}
    return smoke("/data", tmp_path, optimizer={"batch_size": batch_size}, workers=workers, gpu=gpu)


@pytest.mark.parametrize(
    ("options", "syncs"),
    [
        ({"batch_size": 15}, True),
        ({"batch_size": 16}, False),
        ({"batch_size": 16, "sync_batch_norm": True}, True),
        ({"batch_size": 4, "sync_batch_norm": False}, False),
        ({"batch_size": 4, "num_workers": 1}, False),
        ({"batch_size": 4, "use_gpu": False, "sync_batch_norm": True}, False),
    ],
)
def test_small_batches_share_their_statistics_unless_told_otherwise(tmp_path, options, syncs):
    config = on_gpus(tmp_path, **options)
    assert parallel.syncs_batch_norm(config) == syncs
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    prepared = parallel.on_device(network, config, torch.device("cpu"))
    assert isinstance(prepared[1], torch.nn.SyncBatchNorm) == syncs
    assert prepared[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("batch_size", [8, 16])
def test_rank_0_sends_no_buffers_if_the_statistics_are_shared(tmp_path, monkeypatch, batch_size):
    seen = []
    monkeypatch.setattr(parallel.ray.train.torch, "prepare_model", lambda network, **options: seen.append(options))
    parallel.distributed(torch.nn.Conv2d(3, 8, 3), on_gpus(tmp_path, batch_size=batch_size), torch.device("cpu"))
    assert seen == [{"parallel_strategy_kwargs": {"broadcast_buffers": False} if batch_size == 8 else {}}]
