"""Images in, label maps out at any size, without distortion; optionally averaged over mirror and scales."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmlcsr.augment import Pose, warp_image
from dmlcsr.taxonomy import Taxonomy, get_taxonomy
from dmlcsr.weights import ModelCard, Preprocessing

TTA_SCALES = (0.75, 1.0, 1.25)


def normalize(canvases: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(B, S, S, 3) uint8 RGB -> (B, 3, S, S) float32 as the network was trained on, on the same device."""
    pixels = canvases.permute(0, 3, 1, 2).float()  # a permuted NHWC tensor is channels_last already
    if preprocessing.channel_order == "bgr":
        pixels = pixels.flip(1)
    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(3, 1, 1) * 255
    std = torch.tensor(preprocessing.std, device=pixels.device).view(3, 1, 1) * 255
    return (pixels - mean) / std


def resample(logits: Tensor, canvas: int, height: int, width: int, rows: slice = slice(None)) -> Tensor:
    """Logits (C, h, w) of a canvas of that many pixels a side -> (C, height, width) of the image it shows.

    One bilinear step (align_corners=True) from the network's stride to the image's resolution. `rows` takes some of
    the image's rows only.
    """
    longest = max(height, width)

    def places(count: int) -> Tensor:
        centred = (torch.arange(count, device=logits.device) + 0.5 - count / 2) / longest
        return (2 * centred * canvas) / (canvas - 1)

    vertical, horizontal = torch.meshgrid(places(height)[rows], places(width), indexing="ij")
    grid = torch.stack([horizontal, vertical], -1)[None].to(logits.dtype)
    return F.grid_sample(logits[None], grid, padding_mode="border", align_corners=True)[0]


_STRIP_PIXELS = {"cpu": 1 << 16, "cuda": 1 << 22}
"""Pixels that are resampled at once, whatever the size of the photo: 5 MB of 19 classes, on a GPU 300."""


@dataclass(frozen=True)
class Prediction:
    """What the network says about one image, at the resolution that is wanted, strip by strip."""

    views: Sequence[tuple[Tensor, int]]
    """Logits (C, h, w) and side of the canvas of each view that is averaged."""
    height: int
    width: int

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows and probabilities (C, rows, width), float32 on the model's device, from top to bottom."""
        for rows, scores in self._scored():
            yield rows, scores.softmax(0) if len(self.views) == 1 else scores / len(self.views)

    def label_map(self) -> npt.NDArray[np.uint8]:
        """(height, width) uint8: the most probable class of each pixel."""
        strips = [scores.argmax(0).to(torch.uint8) for _, scores in self._scored()]
        return torch.cat(strips).cpu().numpy()

    @torch.inference_mode()
    def _scored(self) -> Iterator[tuple[slice, Tensor]]:
        """Of one view the logits: their order is that of the probabilities. Of several the probabilities' sum."""
        step = max(1, _STRIP_PIXELS[self.views[0][0].device.type] // self.width)
        for start in range(0, self.height, step):
            rows = slice(start, min(start + step, self.height))
            scores = (resample(logits, canvas, self.height, self.width, rows) for logits, canvas in self.views)
            if len(self.views) == 1:
                yield rows, next(scores)
                continue
            total = next(scores).softmax(0)
            for view in scores:  # one by one: on a GPU a strip is a whole photo
                total += view.softmax(0)
            yield rows, total


class Predictor:
    """A model ready to label images. `parser` maps (B, 3, S, S) to logits (B, C, h, w)."""

    def __init__(self, parser: nn.Module, card: ModelCard, device: str = "cpu", tta: bool = False) -> None:
        self.parser = parser.to(device).eval()
        self.preprocessing = card.preprocessing
        self.taxonomy: Taxonomy = get_taxonomy(card.taxonomy)
        self.device = device
        self.tta = tta

    @property
    def size(self) -> int:
        """Side of the canvas in pixels."""
        return self.preprocessing.size

    @torch.inference_mode()
    def predict(self, canvases: npt.NDArray[np.uint8], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Canvases (B, S, S, 3) uint8 RGB and the (height, width) wanted for each -> B predictions."""
        views = self._views(torch.tensor(canvases, device=self.device))
        return [
            Prediction([(view[index], canvas) for view, canvas in views], height, width)
            for index, (height, width) in enumerate(sizes)
        ]

    def label_maps(
        self, canvases: npt.NDArray[np.uint8], sizes: Sequence[tuple[int, int]]
    ) -> list[npt.NDArray[np.uint8]]:
        """The same -> B label maps, uint8 ids."""
        return [prediction.label_map() for prediction in self.predict(canvases, sizes)]

    def label_map(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of any size and aspect -> (H, W) uint8 ids."""
        canvas = warp_image(image, self.size, Pose())
        return self.label_maps(canvas[None], [(image.shape[0], image.shape[1])])[0]

    def _views(self, canvases: Tensor) -> list[tuple[Tensor, int]]:
        """Logits and canvas size of each view that is averaged; one view without test-time augmentation."""
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
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.startswith("cuda")):
            logits: Tensor = self.parser(pixels)
        return logits.float()
