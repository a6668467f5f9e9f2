"""What a GPU would be told to do, on a pretended one: kernels, copies, dtypes. Its values are those of no test."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dmlcsr.losses import PAPER_WEIGHTS, dml_loss
from dmlcsr.metrics import confusion_matrix
from dmlcsr.model import DMLCSR, Architecture
from tests.support.cuda import cuda_autocast_works
from tests.support.fake_cuda import HostSynchronization, Kernels, fake_cuda, without_autograd

STRIDE_4, LABEL = 119, 473
CLASSES = (19, 2, 19)


def on_cuda(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


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


def test_the_confusion_is_counted_without_waiting() -> None:
    with fake_cuda(), Kernels():
        label, prediction = (on_cuda(50, 40, dtype=torch.uint8) for _ in range(2))
        assert confusion_matrix(label, prediction, 19).shape == (19, 19)


class Made(TorchDispatchMode):
    """Notes the dtypes that each operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: dict[str, list[torch.dtype]] = defaultdict(list)

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.dtypes[func.name().removeprefix("aten::")].append(result.dtype)
        return result


def test_maps_stay_in_bf16_under_autocast_and_graphs_in_float32() -> None:
    network = DMLCSR(Architecture(num_classes=11, depth=18, width=0.25)).eval()
    state = network.state_dict()
    with without_autograd(), cuda_autocast_works(), torch.autocast("cuda", torch.bfloat16), Made() as made:
        on_device = {name: on_cuda(*value.shape, dtype=value.dtype) for name, value in state.items()}
        logits = torch.func.functional_call(network, on_device, (on_cuda(2, 3, 128, 128),))
    assert [task.dtype for task in logits] == 3 * [torch.bfloat16]
    maps = [made.dtypes[name] for name in ("upsample_bilinear2d", "cat", "add.Tensor", "convolution")]
    assert all(maps)
    float32 = [[dtype for dtype in dtypes if dtype != torch.bfloat16] for dtypes in maps]
    # The sum and the two convolutions of the feature graph.
    assert [len(dtypes) for dtypes in float32] == [0, 0, 1, 2]
    # The attention, the spatial nodes, the feature graph, and its product with the basis.
    assert made.dtypes["bmm"] == [torch.float32, torch.bfloat16, torch.float32, torch.bfloat16]
    assert made.dtypes["_softmax"] == [torch.float32]
