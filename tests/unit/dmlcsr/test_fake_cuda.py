"""What a GPU would be told to do, on a pretended one: kernels, copies, dtypes. Its values are those of no test."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.support.fake_cuda import HostSynchronization, Kernels, fake_cuda


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
