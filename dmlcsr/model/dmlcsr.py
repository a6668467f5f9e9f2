"""The two networks: `DMLCSR` for training, and `FaceParser`, its part for inference."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dmlcsr.model.architecture import Architecture
from dmlcsr.model.ddgcn import DDGCN, LocalContext
from dmlcsr.model.heads import EdgeHead, ParsingHead
from dmlcsr.model.layers import initialize
from dmlcsr.model.resnet import ResNet


class TaskLogits(NamedTuple):
    """Logits of the three tasks, all at a quarter of the input's height and width."""

    parsing: Tensor
    """(B, C, h, w) logits of the classes."""
    binary_edge: Tensor
    """(B, 2, h, w) logits of no edge and edge."""
    category_edge: Tensor
    """(B, C, h, w) logits of the edge pixels' classes."""


class FaceParser(nn.Module):
    """The decoupled network, for inference: images (B, 3, H, W) -> logits (B, C, ceil(H/4), ceil(W/4)).

    H and W are at least 1 and may differ.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder = ResNet(architecture)
        context = DDGCN if architecture.ddgcn else LocalContext
        self.context = context(architecture, self.encoder.channels[3])
        self.parsing_head = ParsingHead(architecture, self.context.channels, self.encoder.channels[0])
        self.apply(initialize)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        logits: Tensor = self.parsing_head(self.context(features.layer4), features.layer1)
        return logits


class DMLCSR(nn.Module):
    """The training network: images (B, 3, H, W) -> `TaskLogits`.

    The tasks share the encoder only; no task uses the output of another. The parts of `FaceParser` have the same
    names here, so its state dict is this one without the keys of `edge_head`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        parser = FaceParser(architecture)
        self.architecture = architecture
        self.encoder, self.context, self.parsing_head = parser.encoder, parser.context, parser.parsing_head
        self.edge_head = EdgeHead(architecture, self.encoder.channels[:3])
        self.edge_head.apply(initialize)

    def forward(self, x: Tensor) -> TaskLogits:
        features = self.encoder(x)
        parsing = self.parsing_head(self.context(features.layer4), features.layer1)
        return TaskLogits(parsing, *self.edge_head(features.layer1, features.layer2, features.layer3))

    def decoupled(self) -> FaceParser:
        """A copy without edge heads, in eval mode. In eval mode, its logits equal this network's bit for bit."""
        state = {k: v.clone() for k, v in self.state_dict().items() if not k.startswith("edge_head.")}
        return parser_of_state(self.architecture, state)


def parser_of_state(architecture: Architecture, state: Mapping[str, Tensor]) -> FaceParser:
    """A face parser in eval mode that holds these tensors, with their dtypes and devices.

    No weights are initialized, which saves time and does not change torch's random state. Raises ValueError if keys,
    shapes, or kinds of dtype (floating point or not) do not match the architecture.
    """
    with torch.device("meta"):
        parser = FaceParser(architecture)
    wanted, given = _signature(parser.state_dict()), _signature(state)
    wrong = sorted({key for key, _ in wanted ^ given})
    if wrong:
        raise ValueError(f"{len(wrong)} tensors do not fit {architecture}, the first is {wrong[0]}")
    parser.load_state_dict(state, assign=True)
    return parser.eval()


def _signature(state: Mapping[str, Tensor]) -> set[tuple[str, tuple[torch.Size, bool]]]:
    return {(key, (value.shape, value.is_floating_point())) for key, value in state.items()}
