"""A pretended CUDA device without memory: PyTorch's fake tensors, with a working autograd.

Shapes, dtypes and devices are those of a GPU; there are no values. In a CPU build of torch, the autograd engine refuses
tensors on CUDA, because no CUDA device is registered. So here the engine (C++) sees the meta device, and Python and the
kernels see CUDA. One thing is lost: autocast decides in C++, so it does nothing. `without_autograd` is for tests of it.
"""

import ctypes
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA, META = torch.device("cuda", 0), torch.device("meta")
LIBC10 = Path(torch.__file__).parent / "lib" / "libc10.so"
_FREE = ("empty", "lift", "device", "promote_types", "_unsafe_view")
"""Parts of the names of operations that launch no kernel and are not views either."""


class _OnCuda(FakeTensorMode):
    """Makes what the engine and composite kernels of C++ create "on the device of the input" on CUDA too."""

    def dispatch(
        self, func: OpOverload, types: Sequence[type], args: Sequence[object] = (), kwargs: Mapping[str, object] = {}
    ) -> object:
        if kwargs.get("device") == META:
            kwargs = {**kwargs, "device": CUDA}
        if func is torch.ops.aten._fused_sgd_.default:
            return None  # PyTorch lacks its fake kernel, which would do nothing: it works in place
        return super().dispatch(func, types, args, kwargs)


class FakeEvent:
    """An event of the fake device, which has no work to wait for."""

    def record(self) -> None:
        """Does nothing."""

    def synchronize(self) -> None:
        """Returns at once."""


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Tensors that are made on "cuda" in this context have no values. Autograd works, autocast does nothing."""
    mode, make = _OnCuda(), Tensor._make_subclass

    def seen_as_meta(kind: type, data: Tensor, requires_grad: bool = False, **options: Any) -> Tensor:
        if options.get("device_for_backend_keys") is not None:
            options["dispatch_device"] = options["device_for_backend_keys"].type != "cuda"
        return make(kind, data, requires_grad, **options)

    with pytest.MonkeyPatch.context() as patch, mode:
        patch.setattr(Tensor, "_make_subclass", staticmethod(seen_as_meta))
        patch.setattr(torch.cuda, "Event", FakeEvent)
        patch.setattr(FakeTensor, "is_cuda", property(lambda tensor: tensor.fake_device.type == "cuda"), raising=False)
        yield


@contextmanager
def without_autograd() -> Iterator[None]:
    """Makes a fake CUDA device on which autocast works (with `cuda_autocast_works`), and autograd does not."""
    guards = (ctypes.c_void_p * 15).in_dll(ctypes.CDLL(str(LIBC10)), "_ZN3c104impl26device_guard_impl_registryE")
    cuda, meta = 1, 14  # of c10::DeviceType
    assert guards[meta] and not guards[cuda], "the guards of a build of torch for the CPU"
    guards[cuda] = guards[meta]  # does nothing; without one, C++ refuses to make views
    try:
        with FakeTensorMode(), torch.no_grad():
            yield
    finally:
        guards[cuda] = None


class HostSynchronization(AssertionError):
    """The host would wait for the device, or copy from memory that is not pinned, which waits too."""


class Kernels(TorchDispatchMode):
    """Counts the kernels that the operations on a fake CUDA device launch: one each, none for views and allocations.

    Raises HostSynchronization if an operation reads the device, or copies between host and device. A copy to the host
    with `non_blocking` does not wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return self.launched.total()

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.name().removeprefix("aten::")
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        try:
            result = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise HostSynchronization(f"{name} reads the device") from error
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        on_cuda = [x.is_cuda for x in (*given, *made)]
        if any(on_cuda):
            waits = not (name.startswith("_to_copy") and kwargs.get("non_blocking") and given[0].is_cuda)
            # A scalar on the host is an argument of the kernel.
            from_host = any(not x.is_cuda and (x.ndim or name.startswith(("_to_copy", "copy_"))) for x in given)
            if waits and (from_host or not all(x.is_cuda for x in made)):
                shapes = [(str(x.device), tuple(x.shape)) for x in (*given, *made)]
                raise HostSynchronization(f"{name} copies between host and device: {shapes}")
            if not self._is_free(func, name):
                self.launched[name] += 1
        return result

    @staticmethod
    def _is_free(func: OpOverload, name: str) -> bool:
        alias = func._schema.returns[0].alias_info if func._schema.returns else None
        return (alias is not None and not alias.is_write) or any(part in name for part in _FREE)
