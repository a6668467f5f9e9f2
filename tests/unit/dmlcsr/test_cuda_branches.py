"""What the code does on a CUDA device, shown without one: on tensors, and in a torch, that say they are on CUDA."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dmlcsr.edges import edge_targets
from dmlcsr.losses import PAPER_WEIGHTS, binary_weights, category_weights, dml_loss
from dmlcsr.predict import Predictor
from tests.support.cuda import PretendedCuda, autocast_of_cuda, cuda_autocast_works
from tests.support.networks import card


@pytest.fixture
def cuda_autocast() -> Iterator[None]:
    with cuda_autocast_works():
        yield


def some_label() -> Tensor:
    label = torch.randint(0, 5, (2, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    label = label.repeat_interleave(4, 1).repeat_interleave(4, 2)
    label[:, :3, :4] = 255
    return label


def test_classes_are_counted_without_waiting_for_the_device() -> None:
    binary, category = edge_targets(some_label())
    counts = np.bincount(binary.flatten(), minlength=256)[:2]
    weights = binary_weights(binary.as_subclass(PretendedCuda))
    np.testing.assert_allclose(weights, counts[::-1] / counts.sum(), rtol=1e-6)
    counts = np.bincount(category.flatten(), minlength=256)[:6]
    weights = category_weights(category.as_subclass(PretendedCuda), 6)
    np.testing.assert_allclose(weights, 1 - counts / counts.sum(), rtol=1e-6)


@pytest.mark.parametrize("sharpness", [1.0, 100.0])
@pytest.mark.parametrize("is_taught", [False, True])
def test_the_loss_and_its_gradients_are_those_of_the_cpu(is_taught: bool, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = [sharpness * torch.randn(2, classes, 6, 5, generator=generator) for classes in (6, 2, 6)]
    soft = [torch.randn(2, classes, 24, 20, generator=generator).softmax(1) for classes in (6, 2, 6)]
    results = []
    for kind in (Tensor, PretendedCuda):
        tasks = tuple(task.clone().as_subclass(kind).requires_grad_() for task in logits)
        targets = tuple(target.as_subclass(kind) for target in soft) if is_taught else None
        parts = dml_loss(tasks, some_label().as_subclass(kind), PAPER_WEIGHTS, targets=targets)  # type: ignore[arg-type]
        results.append([*parts, *torch.autograd.grad(parts.total, tasks)])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got.as_subclass(Tensor), expected, rtol=1e-5, atol=1e-7)


class SaysPrecision(nn.Module):
    """A parser without weights that notes under which autocast it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.dtype | None] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(autocast_of_cuda())
        return x.to(torch.bfloat16)


@pytest.mark.parametrize(("device", "precision"), [("cuda", torch.bfloat16), ("cuda:1", torch.bfloat16), ("cpu", None)])
def test_a_parser_runs_in_bf16_on_cuda_only_and_answers_in_float32(
    cuda_autocast: None, device: str, precision: torch.dtype | None
) -> None:
    parser = SaysPrecision()
    logits = Predictor(parser, card(), device)._forward(torch.zeros(1, 3, 8, 8))
    assert parser.seen == [precision] and logits.dtype == torch.float32
