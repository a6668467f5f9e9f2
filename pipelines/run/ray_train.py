"""The names of `ray.train` whose types are others than type checkers see there.

`ray.train` exports the classes of its version 2 and, for programs that switch it off, those of version 1; it chooses
when it is imported, and a type checker sees version 1. Only here, and only for types, is the inner path named.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.result import Result
    from ray.train.v2.torch.torch_trainer import TorchTrainer
else:
    from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

__all__ = ["CheckpointConfig", "FailureConfig", "Result", "RunConfig", "ScalingConfig", "TorchTrainer"]
