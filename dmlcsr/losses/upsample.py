"""Bilinear upsampling (align_corners) of logits and its transpose, for losses that compute their own gradient.

Both are products with one banded matrix per axis. On a CPU this is 2 to 5 times faster than
torch.nn.functional.interpolate and its backward, and the results agree to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_BAND = 32
"""Output rows per product. A band of 32 needs about 9 input rows at stride 4; 32 was the fastest of 16 to 512."""


@dataclass(frozen=True)
class BilinearResize:
    """A map from (B, C, h, w) to (B, C, H, W). Build it with `between`."""

    rows: Tensor
    """(H, h) weights; each row has at most two nonzero entries, which sum to 1."""
    columns: Tensor
    """(W, w) weights."""

    @classmethod
    def between(cls, source: Sequence[int], target: Sequence[int], like: Tensor) -> "BilinearResize":
        """The map from size `source` (h, w) to `target` (H, W), with the dtype and device of `like`."""
        rows = _weights(source[0], target[0], like)
        is_square = (source[0], target[0]) == (source[1], target[1])
        return cls(rows, rows if is_square else _weights(source[1], target[1], like))

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """(B, C, h, w) -> (B, C, H, W), in memory laid out (B, H, C, W).

        The memory is new, or that of `out`, contiguous (B, H, C, W).
        """
        batch, channels, _, _ = x.shape
        height, width = len(self.rows), len(self.columns)
        wide = self._times_columns(x.transpose(1, 2), transpose=True).flatten(2)
        flat = x.new_empty(batch, height, channels * width) if out is None else out.view(batch, height, -1)
        for band, source in self._bands():
            torch.matmul(self.rows[band, source], wide[:, source], out=flat[:, band])
        return flat.view(batch, height, channels, width).transpose(1, 2)

    def transposed(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, h, w): the gradient of the input, given the gradient of the output."""
        batch, channels, _, width = x.shape
        tall, out = x.transpose(1, 2).flatten(2), x.new_zeros(batch, self.rows.shape[1], channels * width)
        for band, target in self._bands():
            out[:, target].baddbmm_(self.rows[band, target].T.expand(batch, -1, -1), tall[:, band])
        return self._times_columns(out.view(batch, -1, channels, width), transpose=False).transpose(1, 2)

    def _times_columns(self, x: Tensor, *, transpose: bool) -> Tensor:
        """`x` times the column weights, or `x` itself if the width stays the same."""
        width, source = self.columns.shape
        if width == source:
            return x
        weights = self.columns.T if transpose else self.columns
        return (x.reshape(-1, x.shape[-1]) @ weights).view(*x.shape[:-1], -1)  # one product instead of one per row

    def _bands(self) -> list[tuple[slice, slice]]:
        """Pairs of (output rows, input rows they depend on). A GPU gets one pair, since one product is faster there."""
        large, small = self.rows.shape
        size = _BAND if self.rows.device.type == "cpu" else large
        scale = (small - 1) / max(large - 1, 1)
        starts = range(0, large, size)
        ends = [min(start + size, large) for start in starts]
        return [
            (slice(start, end), slice(max(int(start * scale) - 1, 0), min(int((end - 1) * scale) + 3, small)))
            for start, end in zip(starts, ends, strict=True)
        ]


def _weights(source: int, target: int, like: Tensor) -> Tensor:
    """(target, source) interpolation weights: row i has its weight at i (source - 1) / (target - 1)."""
    position = torch.arange(target, device=like.device, dtype=torch.float64)
    position *= (source - 1) / max(target - 1, 1)
    offset = position[:, None] - torch.arange(source, device=like.device)
    return (1 - offset.abs()).clamp(min=0).to(like.dtype)
