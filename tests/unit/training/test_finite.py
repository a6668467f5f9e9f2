"""What a gradient that is not finite does to a training, and when."""

from copy import deepcopy

import pytest
import torch

from pipelines.config.training import OptimizerConfig
from pipelines.models.setup import build_optimizer
from pipelines.training.finite import FiniteSteps
from tests.support.local_training import as_only_worker
from tests.support.training import micro_batches, smoke

OPTIMIZERS = [OptimizerConfig(name="sgd", lr=0.1), OptimizerConfig(name="adamw", lr=0.1)]
NORM = torch.tensor(1.0)


def a_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))


def fill_gradients(network, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def everything(network, optimizer):
    states = [value for state in optimizer.state.values() for value in state.values() if value is not None]
    return [tensor.clone() for tensor in (*network.parameters(), *states)]


def all_equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("config", OPTIMIZERS, ids=lambda config: config.name)
def test_steps_with_finite_gradients_are_bit_for_bit_those_of_the_optimizer(config):
    networks = [a_network(), a_network()]
    optimizers = [build_optimizer(network, config) for network in networks]
    steps = FiniteSteps(optimizers[0], torch.device("cpu"))
    for seed in range(3):
        for network in networks:
            fill_gradients(network, seed)
        steps.step(NORM)
        optimizers[1].step()
    assert all_equal(*map(everything, networks, optimizers)) and not steps.failed()


@pytest.mark.parametrize("norm", [torch.inf, torch.nan])
@pytest.mark.parametrize("config", OPTIMIZERS, ids=lambda config: config.name)
def test_from_the_first_gradient_that_is_not_finite_on_nothing_changes(config, norm):
    network = a_network()
    optimizer = build_optimizer(network, config)
    steps = FiniteSteps(optimizer, torch.device("cpu"))
    assert not steps.failed() and not steps.failed(steps_ago=1)
    fill_gradients(network, 0)
    steps.step(NORM)
    before = everything(network, optimizer)
    steps.step(torch.tensor(norm))
    assert steps.failed() and not steps.failed(steps_ago=1)
    steps.step(NORM)
    assert steps.failed() and steps.failed(steps_ago=1)
    assert all_equal(before, everything(network, optimizer))


@pytest.mark.parametrize("bad_step", [1, 4, 10])
def test_the_run_stops_with_the_number_of_the_step(tmp_path, bad_step):
    def work(worker):
        step, weights = worker.finite_steps.step, []

        def spoiled(norm):
            weights.append(deepcopy(worker.network.state_dict()))
            step(norm * torch.nan if len(weights) == bad_step else norm)

        worker.finite_steps.step = spoiled
        record, failure = worker.train_epoch(0, micro_batches(64))
        last = dict(worker.network.named_parameters())
        return record, failure, all(torch.equal(value, weights[bad_step - 1][name]) for name, value in last.items())

    optimizer = {"name": "sgd", "lr": 0.1, "batch_size": 2, "accumulation_steps": 3}
    record, failure, is_unchanged = as_only_worker(smoke("/data", tmp_path, optimizer=optimizer), work)
    assert (record, failure) == ({}, f"the loss or its gradient is not finite in epoch 1, step {bad_step}")
    assert is_unchanged
