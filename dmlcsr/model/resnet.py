"""The encoder: a ResNet of output stride 8, with one of three stems."""

from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from dmlcsr.model.architecture import Architecture
from dmlcsr.model.layers import NEGATIVE_SLOPE, BatchNorm, conv_norm

PLANES = (64, 128, 256, 512)
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 1, 2)


class Features(NamedTuple):
    """Outputs (B, C_i, h_i, w_i) of the four stages: layer1 at stride 4, the others at stride 8."""

    layer1: Tensor
    layer2: Tensor
    layer3: Tensor
    layer4: Tensor


class _Residual(nn.Module):
    """The shortcut and the residual sum, which both kinds of block share."""

    downsample: nn.Sequential | None

    def __init__(self, architecture: Architecture, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.activate = architecture.residual_activation
        self.downsample = None
        if stride == 1 and in_channels == out_channels:
            return
        if architecture.pools_shortcuts:
            # `ceil_mode` gives odd sides the size that a convolution with this stride gives them.
            pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
            layers: list[nn.Module] = [pool, nn.Conv2d(in_channels, out_channels, 1, bias=False)]
        else:
            layers = [nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)]
        self.downsample = nn.Sequential(*layers, BatchNorm(out_channels))

    def add_shortcut(self, branch: Tensor, x: Tensor) -> Tensor:
        """Returns ReLU(branch + shortcut(x)). With `activate`, outputs of a norm first pass through LeakyReLU."""
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        if self.activate:
            branch = F.leaky_relu(branch, NEGATIVE_SLOPE)
            if self.downsample is not None:
                shortcut = F.leaky_relu(shortcut, NEGATIVE_SLOPE)
        return F.relu(branch + shortcut, inplace=True)


class BasicBlock(_Residual):
    """A block of two 3x3 convolutions (depths 18 and 34)."""

    def __init__(self, architecture: Architecture, in_channels: int, planes: int, stride: int, dilation: int) -> None:
        super().__init__(architecture, in_channels, planes, stride)
        self.conv1 = _conv3x3(in_channels, planes, stride, dilation)
        self.bn1 = BatchNorm(planes)
        self.conv2 = _conv3x3(planes, planes, 1, dilation)
        self.bn2 = BatchNorm(planes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.add_shortcut(self.bn2(self.conv2(out)), x)


class Bottleneck(_Residual):
    """A block of 1x1, 3x3 and 1x1 convolutions; the last one has 4 times as many channels (depths 50 and 101)."""

    def __init__(self, architecture: Architecture, in_channels: int, planes: int, stride: int, dilation: int) -> None:
        super().__init__(architecture, in_channels, 4 * planes, stride)
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn1 = BatchNorm(planes)
        self.conv2 = _conv3x3(planes, planes, stride, dilation)
        self.bn2 = BatchNorm(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = BatchNorm(4 * planes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return self.add_shortcut(self.bn3(self.conv3(out)), x)


class ResNet(nn.Module):
    """Images (B, 3, H, W) -> `Features`. `channels` are the channel counts of the four maps.

    The authors apply LeakyReLU and then ReLU after a norm in stem and blocks, which equals ReLU alone.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.stem = _stem(architecture)
        planes = [architecture.channels(count) for count in PLANES]
        self.channels = [architecture.expansion * count for count in planes]
        inputs = [architecture.stem_channels[-1], *self.channels]
        stages = [_stage(architecture, stage, inputs[stage], planes[stage]) for stage in range(4)]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, x: Tensor) -> Features:
        layer1 = self.layer1(self.stem(x))
        layer2 = self.layer2(layer1)
        layer3 = self.layer3(layer2)
        return Features(layer1, layer2, layer3, self.layer4(layer3))


def _stem(architecture: Architecture) -> nn.Sequential:
    """Images -> maps of stride 4."""
    channels = (3, *architecture.stem_channels)
    kernel_size = 7 if architecture.stem == "conv7" else 3
    convs = [
        conv_norm(before, after, kernel_size, stride=1 if number else 2, activation=nn.ReLU(inplace=True))
        for number, (before, after) in enumerate(pairwise(channels))
    ]
    return nn.Sequential(*convs, nn.MaxPool2d(3, stride=2, padding=1))


def _stage(architecture: Architecture, stage: int, in_channels: int, planes: int) -> nn.Sequential:
    """The residual blocks of one stage. Only the first one has a stride and changes the number of channels."""
    block = BasicBlock if architecture.expansion == 1 else Bottleneck
    dilation = DILATIONS[stage]
    blocks = [block(architecture, in_channels, planes, STRIDES[stage], dilation)]
    for _ in range(1, architecture.blocks[stage]):
        blocks.append(block(architecture, architecture.expansion * planes, planes, 1, dilation))
    return nn.Sequential(*blocks)


def _conv3x3(in_channels: int, out_channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, bias=False)
