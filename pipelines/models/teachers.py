"""Teacher networks: the ensemble of the previous cycles, or an exported model (docs/method.md, section 6)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmlcsr.augment import BORDER_COLOR, Color
from dmlcsr.losses import DistillationTargets
from dmlcsr.model.dmlcsr import TaskLogits
from dmlcsr.predict import normalize
from dmlcsr.regulation import distillation_targets
from dmlcsr.taxonomy import IGNORE
from dmlcsr.weights import Preprocessing
from pipelines.config.training import TrainConfig
from pipelines.models import parsers, setup


class TeacherNetwork(NamedTuple):
    """A frozen network in eval mode; `label_weight` is the share of the hard label in its targets (0..1)."""

    network: nn.Module
    preprocessing: Preprocessing
    label_weight: float
    border_color: Color = BORDER_COLOR
    """RGB of the student's canvas outside the image; the teacher is shown its own."""

    def targets(self, batch: dict[str, Tensor], edge_radius: int) -> DistillationTargets:
        """The targets for a batch of `image` (B, S, S, 3) and `label` (B, S, S), uint8.

        An exported model has no edge heads, so it gives targets for the parsing only.
        """
        with torch.no_grad():
            logits = self.network(normalize(self._canvases(batch), self.preprocessing))
        tasks = logits if isinstance(logits, TaskLogits) else (logits, None, None)
        return distillation_targets(tasks, batch["label"], self.label_weight, edge_radius=edge_radius)

    def _canvases(self, batch: dict[str, Tensor]) -> Tensor:
        """The images as the teacher's own training showed them: (B, T, T, 3) of its size T and its border."""
        images, theirs, size = batch["image"], self.preprocessing.border_color, self.preprocessing.size
        if theirs != self.border_color:
            is_border = (images == images.new_tensor(self.border_color)).all(-1) & (batch["label"] == IGNORE)
            images = torch.where(is_border[..., None], images.new_tensor(theirs), images)
        if size == images.shape[1]:
            return images
        # Aligned corners, as in the upsampling of the logits, so that these lie where the student's do. torch shifts
        # pixels if it antialiases with them; without them the error is half a pixel of the student at the corners.
        pixels, shrinks = images.permute(0, 3, 1, 2).float(), size < images.shape[1]
        scaled = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=not shrinks, antialias=shrinks)
        return scaled.permute(0, 2, 3, 1)


def freeze(network: nn.Module, device: torch.device) -> nn.Module:
    """Moves a network to the device, in eval mode, without gradients, and in the memory layout of the student."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


def configured_teacher(config: TrainConfig, device: torch.device) -> TeacherNetwork | None:
    """The teacher that `--teacher` names; None if it names none."""
    if config.teacher is None:
        return None
    parser, card = parsers.read_parser(config.teacher)
    border_color = setup.preprocessing(config).border_color
    return TeacherNetwork(freeze(parser, device), card.preprocessing, config.distill.label_weight, border_color)
