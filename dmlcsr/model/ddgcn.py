"""The dynamic dual graph convolutional head: global context from two graphs, without pooling.

The spatial graph relates image positions through attention between channels. The feature graph relates channels
through a learned projection of all positions. docs/method.md, section 2, has the formulas.
"""

import torch
from torch import Tensor, nn

from dmlcsr.model.architecture import Architecture
from dmlcsr.model.layers import BatchNorm, conv_norm, upsample, widened, without_autocast

# Under autocast the small matrices of the graphs are in float32: they are sums over all positions or channels.
# `gamma[0]` below is a tensor without dimensions. Unlike `gamma`, it does not promote half-precision maps to float32.


class SpatialGraph(nn.Module):
    """(B, K, h, w) -> (B, K, h, w): S = F * up(L') + F, where L' is the graph's output at an eighth of the size."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            *(conv_norm(channels, channels, 3, stride=2, groups=channels) for _ in range(3)),
        )
        self.key = nn.Conv2d(channels, inner, 1)
        self.query = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, inner, 1)
        self.mix = nn.Conv1d(inner, inner, 1, bias=False)
        self.mix_norm = BatchNorm(inner)
        self.project = conv_norm(inner, channels, bias=True)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        local = self.down(x)
        graph: Tensor = self.gamma[0] * self.project(self.reason(local)) + local
        return x * upsample(graph, like=x) + x

    def reason(self, local: Tensor) -> Tensor:
        """(B, K, h, w) -> (B, K/2, h, w) by attention between channels and one graph convolution."""
        key, query, value = (node(local).flatten(2) for node in (self.key, self.query, self.value))
        query, value = widened(query), widened(value)
        with without_autocast(query):
            attention = torch.softmax(query @ value.transpose(1, 2), dim=-1)
        # The paper writes k A with positions as rows. The transpose A^T k^T needs no reordering of memory.
        nodes = attention.transpose(1, 2) @ key
        out: Tensor = self.mix_norm(self.mix(nodes))
        return out.reshape(*out.shape[:2], *local.shape[2:])


class FeatureGraph(nn.Module):
    """(B, K, h, w) -> (B, K, h, w): G = gamma1 * ABN(conv(Y)) + F, where Y is the graph's output."""

    def __init__(self, channels: int, inner: int, basis: int) -> None:
        super().__init__()
        self.nodes = conv_norm(channels, inner)
        self.basis = conv_norm(channels, basis)
        self.adjacency = nn.Conv1d(basis, basis, 1, bias=False)
        self.adjacency_norm = BatchNorm(basis)
        self.mix = nn.Conv1d(inner, inner, 1, bias=False)
        self.mix_norm = BatchNorm(inner)
        self.project = conv_norm(inner, channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gamma[0] * self.project(self.reason(x)) + x
        return out

    def reason(self, x: Tensor) -> Tensor:
        """(B, K, h, w) -> (B, K/2, h, w), through the (K/2, K/4) matrix Z = P B^T of each image."""
        nodes, basis = self.nodes(x).flatten(2), self.basis(x).flatten(2)
        widened_nodes, widened_basis = widened(nodes), widened(basis)
        with without_autocast(nodes):
            graph = widened_nodes @ widened_basis.transpose(1, 2)
            graph = self.adjacency_norm(self.adjacency(graph.transpose(1, 2))).transpose(1, 2) + graph
            graph = self.mix_norm(self.mix(graph))
        out: Tensor = graph @ basis
        return out.reshape(*out.shape[:2], *x.shape[2:])


class LocalContext(nn.Module):
    """Replaces `DDGCN` by its last convolution, without the graphs, to measure what the graphs contribute."""

    def __init__(self, architecture: Architecture, in_channels: int) -> None:
        super().__init__()
        self.channels = architecture.channels(512)
        self.output = conv_norm(in_channels, self.channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(x)
        return out


class DDGCN(nn.Module):
    """The encoder's last map (B, in_channels, h, w) -> context (B, K, h, w); K = 512 at width 1."""

    def __init__(self, architecture: Architecture, in_channels: int) -> None:
        super().__init__()
        width, half, quarter = (architecture.channels(count) for count in (512, 256, 128))
        self.reduce = conv_norm(in_channels, width, 3)
        self.spatial = SpatialGraph(width, half)
        self.feature = FeatureGraph(width, half, quarter)
        self.fuse = conv_norm(2 * width, width)
        self.refine = conv_norm(width, width, 3)
        self.output = conv_norm(in_channels + width, width, 3)
        self.channels = width

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        graphs = self.fuse(torch.cat([self.spatial(reduced), self.feature(reduced)], dim=1))
        out: Tensor = self.output(torch.cat([x, self.refine(graphs)], dim=1))
        return out
