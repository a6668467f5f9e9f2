"""What a GPU would be told to do, on a pretended one: kernels, copies, dtypes. Its values are those of no test."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dmlcsr.losses import PAPER_WEIGHTS, dml_loss
from tests.support.fake_cuda import HostSynchronization, Kernels, fake_cuda

STRIDE_4, LABEL = 119, 473
CLASSES = (19, 2, 19)


def on_cuda(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="cuda")


def test_autograd_works_and_kernels_are_counted() -> None:
    with fake_cuda():
        x, weight = on_cuda(2, 3, 8, 8).requires_grad_(), on_cuda(4, 3, 3, 3).requires_grad_()
        with Kernels() as kernels:
            F.conv2d(x, weight).relu().sum().backward()
        assert x.grad is not None and x.grad.is_cuda
        assert set(kernels.launched) >= {"convolution", "convolution_backward", "relu", "threshold_backward"}


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x + torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x.copy_(torch.zeros(2)),
        lambda x: torch.bincount(x.int()),
    ],
)
def test_what_makes_the_host_wait_is_an_error(waits) -> None:
    with fake_cuda():
        x = on_cuda(2)
        with pytest.raises(HostSynchronization), Kernels():
            waits(x)


@pytest.mark.parametrize("is_taught", [False, True])
@pytest.mark.parametrize("batch", [1, 7, 28])
def test_the_loss_launches_few_kernels_for_any_batch_and_never_waits(batch: int, is_taught: bool) -> None:
    with fake_cuda():
        parsing, binary, category = (
            on_cuda(batch, k, STRIDE_4, STRIDE_4, dtype=torch.bfloat16).requires_grad_() for k in CLASSES
        )
        targets = tuple(on_cuda(batch, k, LABEL, LABEL) for k in CLASSES) if is_taught else None
        label = on_cuda(batch, LABEL, LABEL, dtype=torch.uint8)
        with Kernels() as kernels:
            dml_loss((parsing, binary, category), label, PAPER_WEIGHTS, targets=targets).total.backward()  # type: ignore[arg-type]
    assert kernels.count <= 250, kernels.launched.most_common()
    assert parsing.grad is not None and parsing.grad.dtype == torch.bfloat16
