"""Names of `ray.train` for which type checkers would see the wrong types.

`ray.train` exports the classes of its version 2, or those of version 1 if a program switches version 2 off. It chooses
when it is imported, and a type checker sees version 1. For type checkers this module imports the classes of version 2
from their internal path. No other module uses that path.
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
