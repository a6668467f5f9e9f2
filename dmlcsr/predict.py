"""Prediction of label maps for images of any size, without distortion (docs/method.md, section 7).

Optionally the prediction is averaged over mirror images and scales (test-time augmentation).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmlcsr.augment import Pose, warp_image
from dmlcsr.taxonomy import Taxonomy
from dmlcsr.weights import Preprocessing

TTA_SCALES = (0.75, 1.0, 1.25)
"""Factors on the canvas size; each is used with the image and with its mirror image."""


def to_canvas(image: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB -> (S, S, 3) uint8 RGB: the whole image at the size of the network's input."""
    size = preprocessing.size
    if preprocessing.fit == "stretch":
        kind = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, (size, size), interpolation=kind), np.uint8)
    return warp_image(image, preprocessing.size, Pose(), preprocessing.border_color)


def normalize(canvases: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(B, S, S, 3) uint8 RGB -> (B, 3, S, S) float32, normalized as in the network's training, on the same device."""
    pixels = canvases.permute(0, 3, 1, 2).float()  # a permuted NHWC tensor is channels_last already
    if preprocessing.channel_order == "bgr":
        pixels = pixels.flip(1)
    return (pixels - _per_channel(preprocessing.mean, pixels)) / _per_channel(preprocessing.std, pixels)


def _per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    """(3, 1, 1) values 255 * `values`, made on the device of `like`: a copy from the host would wait for it."""
    return torch.stack([like.new_full((1, 1), value) for value in values]) * 255


def on_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A copy of an array on a device. For CUDA it goes through pinned memory, and the host does not wait for it."""
    return torch.tensor(array, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def resample(
    logits: Tensor, canvas: int, height: int, width: int, rows: slice = slice(None), fit: str = "letterbox"
) -> Tensor:
    """(C, h, w) logits of a canvas of `canvas` x `canvas` pixels -> (C, height, width) logits of the image on it.

    One bilinear interpolation (align_corners=True) leads from the network's stride to the image's resolution. With
    `rows`, only these rows of the image are computed.
    """
    longest = max(height, width)

    def positions(count: int) -> Tensor:
        side = count if fit == "stretch" else longest
        centered = (torch.arange(count, device=logits.device) + 0.5 - count / 2) / side
        return (2 * centered * canvas) / (canvas - 1)

    vertical, horizontal = torch.meshgrid(positions(height)[rows], positions(width), indexing="ij")
    grid = torch.stack([horizontal, vertical], -1)[None].to(logits.dtype)
    return F.grid_sample(logits[None], grid, padding_mode="border", align_corners=True)[0]


_CPU_STRIP_PIXELS, _GPU_STRIP_PIXELS = 1 << 16, 1 << 22
"""Number of pixels that are resampled in one step, to bound memory: 5 MB for 19 classes on a CPU, 300 MB on a GPU."""


@dataclass(frozen=True)
class Prediction:
    """The network's output for one image, at the requested resolution. It is computed strip by strip."""

    views: Sequence[tuple[Tensor, int]]
    """Logits (C, h, w) and canvas size in pixels of each view that is averaged."""
    height: int
    width: int
    fit: str = "letterbox"

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Yields rows and probabilities (C, rows, width), float32 on the model's device, from top to bottom."""
        for rows, scores in self._scored():
            yield rows, scores.softmax(0) if len(self.views) == 1 else scores / len(self.views)

    def ids(self) -> Tensor:
        """(height, width) uint8 ids of the most probable class of each pixel, on the model's device."""
        return torch.cat([scores.argmax(0).to(torch.uint8) for _, scores in self._scored()])

    def label_map(self) -> npt.NDArray[np.uint8]:
        """The `ids` as an array."""
        return self.ids().cpu().numpy()

    @torch.inference_mode()
    def _scored(self) -> Iterator[tuple[slice, Tensor]]:
        """Yields scores per strip.

        With one view they are the logits, since the argmax needs no softmax. With several views they are the sum of
        the views' probabilities.
        """
        pixels = _CPU_STRIP_PIXELS if self.views[0][0].device.type == "cpu" else _GPU_STRIP_PIXELS
        step = max(1, pixels // self.width)
        for start in range(0, self.height, step):
            rows = slice(start, min(start + step, self.height))
            sides = (self.height, self.width, rows, self.fit)
            scores = (resample(logits, canvas, *sides) for logits, canvas in self.views)
            if len(self.views) == 1:
                yield rows, next(scores)
                continue
            total = next(scores).softmax(0)
            for view in scores:  # one after the other, to save memory: on a GPU a strip is a whole photo
                total += view.softmax(0)
            yield rows, total


class ParserCard(Protocol):
    """The part of a card that every model that predicts has; `ModelCard` is one."""

    @property
    def preprocessing(self) -> Preprocessing: ...

    @property
    def taxonomy(self) -> Taxonomy: ...

    @property
    def lineage(self) -> Mapping[str, Any]: ...


class Predictor:
    """A model that predicts label maps. `parser` maps (B, 3, S, S) to logits (B, C, h, w); `tta` averages six views.

    Raises ValueError for a device that torch does not know or cannot use.
    """

    def __init__(
        self, parser: nn.Module, card: ParserCard, device: str | torch.device = "cpu", tta: bool = False
    ) -> None:
        try:
            self.device = torch.device(device)
            self.parser = parser.to(self.device).eval()
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises each of them
            raise ValueError(f"the device {device} cannot be used: {str(error).partition(chr(10))[0]}") from error
        self.preprocessing = card.preprocessing
        self.taxonomy: Taxonomy = card.taxonomy
        self.tta = tta

    @property
    def size(self) -> int:
        """The height and width of the canvas in pixels."""
        return self.preprocessing.size

    @torch.inference_mode()
    def predict(self, canvases: npt.NDArray[np.uint8], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """(B, S, S, 3) uint8 RGB canvases and the (height, width) of each result -> B predictions."""
        views = self._views(on_device(canvases, self.device))
        return [
            Prediction([(view[index], canvas) for view, canvas in views], height, width, self.preprocessing.fit)
            for index, (height, width) in enumerate(sizes)
        ]

    def label_maps(
        self, canvases: npt.NDArray[np.uint8], sizes: Sequence[tuple[int, int]]
    ) -> list[npt.NDArray[np.uint8]]:
        """(B, S, S, 3) uint8 RGB canvases and the (height, width) of each result -> B label maps, uint8 ids."""
        return [prediction.label_map() for prediction in self.predict(canvases, sizes)]

    def label_map(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB image of any size and aspect ratio -> (H, W) uint8 ids."""
        canvas = to_canvas(image, self.preprocessing)
        return self.label_maps(canvas[None], [(image.shape[0], image.shape[1])])[0]

    def _views(self, canvases: Tensor) -> list[tuple[Tensor, int]]:
        """Logits and canvas size of each view: one view, or two per scale with test-time augmentation."""
        pixels = normalize(canvases, self.preprocessing)
        if not self.tta:
            return [(self._forward(pixels), self.size)]
        pair_order = torch.from_numpy(self.taxonomy.flip_lut()[: self.taxonomy.num_classes]).long().to(self.device)
        views = []
        for scale in TTA_SCALES:
            canvas = round(self.size * scale)
            scaled = F.interpolate(pixels, (canvas, canvas), mode="bilinear", align_corners=False)
            mirrored = self._forward(scaled.flip(3)).flip(3)[:, pair_order]
            views += [(self._forward(scaled), canvas), (mirrored, canvas)]
        return views

    def _forward(self, pixels: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            logits: Tensor = self.parser(pixels)
        return logits.float()
