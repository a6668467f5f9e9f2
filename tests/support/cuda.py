"""CUDA pretended on the CPU, for branches that depend on the device and compute the same on either."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor


class PretendedCuda(Tensor):
    """A CPU tensor that says it is on CUDA, like everything computed from it."""

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True


@contextmanager
def cuda_autocast_works() -> Iterator[None]:
    """Makes torch set the autocast of CUDA as it would with a GPU; without one torch only warns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        yield


def autocast_of_cuda() -> torch.dtype | None:
    """The dtype of CUDA's autocast at this point of the program, None if it is off."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
