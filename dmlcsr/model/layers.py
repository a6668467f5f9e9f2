"""The layers that all parts of the network are made of."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

NEGATIVE_SLOPE = 0.01
"""Slope of every LeakyReLU below zero."""


class BatchNorm(_BatchNorm):
    """Batch norm of (B, C, ...) of any rank that takes one value per channel in training too.

    One value has no variance, and PyTorch raises; here the running statistics normalise it and stay as they
    are. That happens where a batch of one meets a map of 1x1, as in the graph head for small inputs.
    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` converts it like any other batch norm.
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
    """ABN(conv): a size-keeping convolution, batch norm, and LeakyReLU unless another activation is given."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=bias)
    return nn.Sequential(conv, BatchNorm(out_channels), activation or leaky_relu())


def upsample(x: Tensor, like: Tensor) -> Tensor:
    """(B, C, h, w) bilinearly to the height and width of `like`, corners aligned."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


def initialise(module: nn.Module) -> None:
    """Weights to train from, for `Module.apply`: Kaiming normal for convolutions, with zero bias.

    The fan-in form keeps the first logits near unit scale, and is also right for depthwise convolutions.
    Batch norms keep PyTorch's own start (weight 1, bias 0).
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE, nonlinearity="leaky_relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
