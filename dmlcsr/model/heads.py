"""The task heads: face parsing, and the two edge heads, which are used in training only."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dmlcsr.model.architecture import Architecture
from dmlcsr.model.layers import conv_norm, upsample


class ParsingHead(nn.Module):
    """Context (B, K, h, w) and layer1 (B, C1, H/4, W/4) -> parsing logits (B, C, H/4, W/4)."""

    def __init__(self, architecture: Architecture, context_channels: int, layer1_channels: int) -> None:
        super().__init__()
        width, skip = architecture.channels(256), architecture.channels(48)
        self.deep = conv_norm(context_channels, width)
        self.shallow = conv_norm(layer1_channels, skip)
        self.fuse = nn.Sequential(conv_norm(width + skip, width), conv_norm(width, width))
        self.classifier = nn.Conv2d(width, architecture.num_classes, 1)

    def forward(self, context: Tensor, layer1: Tensor) -> Tensor:
        shallow = self.shallow(layer1)
        deep = upsample(self.deep(context), like=shallow)
        logits: Tensor = self.classifier(self.fuse(torch.cat([deep, shallow], dim=1)))
        return logits


class EdgeHead(nn.Module):
    """Maps of layer1, layer2, layer3 -> (binary (B, 2, H/4, W/4), category (B, C, H/4, W/4)) edge logits."""

    def __init__(self, architecture: Architecture, level_channels: Sequence[int]) -> None:
        super().__init__()
        width, classes = architecture.channels(256), architecture.num_classes
        self.levels = nn.ModuleList(conv_norm(channels, width) for channels in level_channels)
        self.shared = nn.Conv2d(width, classes, 3, padding=1)
        self.binary = nn.Conv2d(len(level_channels) * classes, 2, 1)
        self.category = nn.Conv2d(len(level_channels) * classes, classes, 1)

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        edges = [self.shared(level(x)) for level, x in zip(self.levels, maps, strict=True)]
        stacked = torch.cat([edges[0], *(upsample(edge, like=edges[0]) for edge in edges[1:])], dim=1)
        return self.binary(stacked), self.category(stacked)
