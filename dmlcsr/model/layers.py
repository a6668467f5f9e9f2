"""The layers that all parts of the network share."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

NEGATIVE_SLOPE = 0.01
"""Slope below zero of every LeakyReLU; the authors' value."""


class BatchNorm(_BatchNorm):
    """BatchNorm of (B, C, ...) tensors of any rank that accepts a single value per channel in training too.

    A single value has no variance, and PyTorch raises an error. This layer then normalizes with the running statistics
    and leaves them unchanged. A batch of one image with a map of 1x1 has a single value; it occurs in the graph head
    for small inputs. `torch.nn.SyncBatchNorm.convert_sync_batchnorm` converts this layer like any BatchNorm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch norm takes (B, C, ...), got shape {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.ndim > 1 and input.numel() == input.shape[1]:
            mean, var = self.running_mean, self.running_var
            return F.batch_norm(input, mean, var, self.weight, self.bias, training=False, eps=self.eps)
        return super().forward(input)


def leaky_relu() -> nn.LeakyReLU:
    return nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """A convolution with padding kernel_size // 2, a BatchNorm, and LeakyReLU if no other `activation` is given."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=bias)
    return nn.Sequential(conv, BatchNorm(out_channels), activation or leaky_relu())


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """A context without autocast on the device of `x`. It is empty if autocast is off, because exporters need that."""
    return torch.autocast(x.device.type, enabled=False) if _is_autocast(x) else nullcontext()


def widened(x: Tensor) -> Tensor:
    """`x` in float32 under autocast, else unchanged."""
    return x.float() if _is_autocast(x) else x


def _is_autocast(x: Tensor) -> bool:
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def upsample(x: Tensor, like: Tensor) -> Tensor:
    """Resizes (B, C, h, w) bilinearly, with aligned corners, to the height and width of `like`; keeps the dtype."""
    with without_autocast(x):  # autocast would make float32 of it, and of all that is concatenated with it
        return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


def initialize(module: nn.Module) -> None:
    """Sets the initial weights of a convolution to Kaiming normal and its bias to zero; for `Module.apply`.

    The fan-in form keeps the first logits near unit scale, for depthwise convolutions too. BatchNorms keep PyTorch's
    initial values (weight 1, bias 0).
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE, nonlinearity="leaky_relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
