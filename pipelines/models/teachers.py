"""Teacher networks: the ensemble of the previous cycles, or an exported model (docs/method.md, section 6)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dmlcsr.losses import DistillationTargets
from dmlcsr.model.dmlcsr import TaskLogits
from dmlcsr.predict import normalize
from dmlcsr.regulation import distillation_targets
from dmlcsr.weights import Preprocessing
from pipelines.config.training import TrainConfig
from pipelines.models import model_directory


class TeacherNetwork(NamedTuple):
    """A frozen network in eval mode; `label_weight` is the share of the hard label in its targets (0..1)."""

    network: nn.Module
    preprocessing: Preprocessing
    label_weight: float

    def targets(self, batch: dict[str, Tensor], edge_radius: int) -> DistillationTargets:
        """The targets for a batch of `image` (B, S, S, 3) and `label` (B, S, S), uint8.

        An exported model has no edge heads, so it gives targets for the parsing only.
        """
        with torch.no_grad():
            logits = self.network(normalize(batch["image"], self.preprocessing))
        tasks = logits if isinstance(logits, TaskLogits) else (logits, None, None)
        return distillation_targets(tasks, batch["label"], self.label_weight, edge_radius=edge_radius)


def freeze(network: nn.Module, device: torch.device) -> nn.Module:
    """Moves a network to the device, in eval mode, without gradients, and in the memory layout of the student."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


def configured_teacher(config: TrainConfig, device: torch.device) -> TeacherNetwork | None:
    """The teacher that `--teacher` names; None if it names none."""
    if config.teacher is None:
        return None
    parser, card = model_directory.read_model(config.teacher)
    return TeacherNetwork(freeze(parser, device), card.preprocessing, config.distill.label_weight)
