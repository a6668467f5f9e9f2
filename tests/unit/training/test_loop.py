"""The steps of a training worker, without a cluster; whole trainings are in tests/pipelines."""

from copy import deepcopy

import pytest
import torch
from torch.optim import SGD

from dmlcsr.losses import LossTerms, dml_loss
from dmlcsr.predict import normalize
from dmlcsr.taxonomy import LAPA
from pipelines.data.order import EpochOrder
from pipelines.models import setup
from pipelines.training import train
from tests.support.cuda import autocast_of_cuda, cuda_autocast_works
from tests.support.local_training import as_only_worker, manifest
from tests.support.training import micro_batches, smoke

MICRO_BATCHES = 3


def accumulating(tmp_path, **more):
    optimizer = {"name": "sgd", "lr": 0.1, "batch_size": 2, "accumulation_steps": MICRO_BATCHES, "clip_norm": None}
    return smoke("/data", tmp_path, optimizer=optimizer | more)


def by_hand(worker, batches):
    """The weights after one step over these micro-batches, and its loss terms."""
    network = deepcopy(worker.network).train()
    weights, values = list(network.parameters()), worker.config.optimizer
    gradients, parts = [], []
    for batch in batches:
        logits = network(normalize(batch["image"], worker.card.preprocessing))
        terms = dml_loss(logits, batch["label"], worker.loss_weights)
        gradients.append(torch.autograd.grad(terms.total, weights))
        parts.append(torch.stack(terms).detach())
    for weight, *of_batches in zip(weights, *gradients, strict=True):
        weight.grad = torch.stack(of_batches).mean(0)
    SGD(weights, values.lr, weight_decay=values.weight_decay).step()
    return dict(network.named_parameters()), torch.stack(parts).mean(0)


def test_each_step_follows_the_mean_gradient_of_its_micro_batches(tmp_path):
    def work(worker):
        worker.ddp_network.train()
        for seed in range(2):
            batches = list(micro_batches(MICRO_BATCHES, seed))
            weights, terms = by_hand(worker, batches)
            torch.testing.assert_close(torch.stack([*worker.step(iter(batches))]), terms, rtol=1e-4, atol=1e-5)
            for name, got in worker.network.named_parameters():
                torch.testing.assert_close(got, weights[name], rtol=1e-5, atol=1e-5)
        return True

    assert as_only_worker(accumulating(tmp_path, momentum=0), work)


def test_a_stream_that_ends_inside_a_step_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="ended in the middle"):
        as_only_worker(accumulating(tmp_path), lambda worker: worker.step(micro_batches(MICRO_BATCHES - 1)))


@pytest.mark.parametrize(("device", "precision"), [("cuda", torch.bfloat16), ("cpu", None)])
def test_the_network_trains_in_bf16_on_cuda_only(tmp_path, device, precision):
    """The tensors stay on the CPU, which that autocast leaves alone."""

    def work(worker):
        seen = []
        worker.device = torch.device(device)
        worker.network.register_forward_pre_hook(lambda *_: seen.append(autocast_of_cuda()))
        with cuda_autocast_works():
            return seen, worker.loss(next(micro_batches(1)))

    seen, parts = as_only_worker(accumulating(tmp_path), work)
    assert seen == [precision] and isinstance(parts, LossTerms)


def test_a_worker_needs_memory_for_the_states_of_its_optimiser(tmp_path):
    sgd, adamw = (accumulating(tmp_path, name=name) for name in ("sgd", "adamw"))
    weights = sum(value.nbytes for value in setup.build_network(sgd, LAPA).parameters())
    assert train.worker_bytes(adamw, LAPA) - train.worker_bytes(sgd, LAPA) == weights
    larger = accumulating(tmp_path, batch_size=8)
    assert train.worker_bytes(larger, LAPA) > train.worker_bytes(sgd, LAPA) + weights


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_rows_of_the_fold_that_is_held_out_are_in_no_epoch(tmp_path, fold):
    config = smoke("/data", tmp_path, held_out_fold=f"{fold}/3")
    stream = setup.train_stream(config, manifest(train=16 * 7), 0, 1)
    for epoch in range(3):
        order = EpochOrder(stream.source.groups, config.seed, epoch, stream.source.num_rows)
        pieces = order.pieces(0, stream.source.num_rows)
        assert {piece.rows.group for piece in pieces} == {group for group in range(7) if group % 3 != fold - 1}
