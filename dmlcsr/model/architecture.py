"""The values that determine a network: its classes, depth, width, stem and two options."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from dmlcsr.taxonomy import IGNORE


class _Depth(NamedTuple):
    blocks: tuple[int, int, int, int]
    expansion: int


_DEPTHS = {
    18: _Depth((2, 2, 2, 2), 1),
    34: _Depth((3, 4, 6, 3), 1),
    50: _Depth((3, 4, 6, 3), 4),
    101: _Depth((3, 4, 23, 3), 4),
}
_STEMS = {"deep": (64, 64, 128), "deep32": (32, 32, 64), "conv7": (64,)}
"""Output channels of the convolutions of each stem."""
_MAX_WIDTH = 4.0
"""Largest accepted width: at 4 a ResNet-101 has about a billion weights, and no recipe needs more."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The architecture of one model. `num_classes=19` and the defaults give the paper's network.

    Raises ValueError for a value outside the documented range.
    """

    num_classes: int
    """Number of classes C of the parsing and category-edge logits, background included: 2 to 255."""

    depth: int = 101
    """Number of layers of the ResNet: 18 or 34 (basic blocks), 50 or 101 (bottlenecks)."""

    width: float = 1.0
    """Factor on every channel count of encoder and heads: above 0, at most 4."""

    residual_activation: bool = False
    """Apply LeakyReLU after a block's last norm and after its downsample norm, before the residual sum.

    The authors' weights were trained with it, ImageNet weights without it.
    """

    ddgcn: bool = True
    """Put the paper's dual graph head between encoder and parsing head; False puts one convolution there instead."""

    stem: str = "deep"
    """First layers of the ResNet: `deep`, `deep32` or `conv7`.

    `deep` is the paper's three 3x3 convolutions with 64, 64 and 128 channels. `deep32` has 32, 32 and 64, and its
    shortcuts of stride 2 average 2x2 pixels (ResNet-D). `conv7` is the one 7x7 convolution of the original ResNet.
    """

    def __post_init__(self) -> None:
        if not 2 <= self.num_classes <= IGNORE:
            raise ValueError(f"num_classes must be from 2 to {IGNORE}, got {self.num_classes}")
        if self.depth not in _DEPTHS:
            raise ValueError(f"depth must be one of {', '.join(map(str, _DEPTHS))}, got {self.depth}")
        if self.stem not in _STEMS:
            raise ValueError(f"stem must be one of {', '.join(_STEMS)}, got {self.stem!r}")
        if not (math.isfinite(self.width) and 0 < self.width <= _MAX_WIDTH):
            raise ValueError(f"width must be above 0 and at most {_MAX_WIDTH:g}, got {self.width}")

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        """Numbers of residual blocks in layer1..4."""
        return _DEPTHS[self.depth].blocks

    @property
    def stem_channels(self) -> tuple[int, ...]:
        """The output channels of the convolutions of the stem, scaled by the width."""
        return tuple(self.channels(count) for count in _STEMS[self.stem])

    @property
    def pools_shortcuts(self) -> bool:
        """True if a shortcut of stride 2 averages 2x2 pixels; False if its convolution skips pixels."""
        return self.stem == "deep32"

    @property
    def expansion(self) -> int:
        """The ratio of output to inner channels of a residual block: 1 for basic blocks, 4 for bottlenecks."""
        return _DEPTHS[self.depth].expansion

    def channels(self, count: int) -> int:
        """Scales a channel count of the paper by the width, to a multiple of 8, at least 8; width 1 changes nothing."""
        return max(8, 8 * round(count * self.width / 8))


def depth_of(blocks: tuple[int, ...], expansion: int) -> int:
    """The depth of the ResNet with these numbers of blocks in layer1..4. Raises ValueError if none has them."""
    for depth, known in _DEPTHS.items():
        if known == (blocks, expansion):
            return depth
    kind = "bottleneck" if expansion > 1 else "basic"
    known_depths = ", ".join(map(str, _DEPTHS))
    raise ValueError(f"no known ResNet has {blocks} {kind} blocks; known depths are {known_depths}")
