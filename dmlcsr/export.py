"""Export of a face parser to one deployable file, which is compared with the network.

ONNX: the input `image` is (B, 3, H, W) float32, normalized as the model card describes. The output is one of:

- `logits` (B, C, ceil(H/4), ceil(W/4)) float32, as the network gives them. B, H and W may vary.
- `labels` (B, height, width) uint8: the logits at the pixels of a photo, and their argmax. H and W are the card's size;
  a second input `size` holds (height, width) of the photo. The graph then computes what `Predictor` does.

Files of fixed size take one image of the card's size; their `labels` are those of its pixels, and have no input `size`.
Both kinds of file, ONNX and safetensors, hold the card in their metadata, under the key `model.json`.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn

from dmlcsr.model import FaceParser
from dmlcsr.predict import resample
from dmlcsr.weights import ModelCard

CARD = "model.json"
TOLERANCE, HALF_TOLERANCE = 1e-4, 3e-2
"""Largest accepted difference between logits, in float32 and float16, relative to the largest logit or 1.

Kernels add float32 numbers in different orders, so results differ in the last digits.
"""
_SHAPES = ((1, 64, 64), (2, 97, 131))
"""(batch, height, width) of inputs that are compared besides the card's size: another batch, odd sides, no square.

For `labels`, batch and size of the photos.
"""


@dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """Describes an ONNX file: its output, and how it is computed."""

    output: Literal["logits", "labels"] = "logits"
    fixed_size: bool = False
    """The file takes one image of the card's size only."""
    opset: int | None = None
    """Version of ONNX's operators; None: the exporter's own."""
    float16: bool = False
    """Weights and network are in half precision; inputs and outputs stay float32."""

    @property
    def has_size(self) -> bool:
        """True if the file has the input `size`."""
        return self.output == "labels" and not self.fixed_size


def to_safetensors(parser: FaceParser, card: ModelCard) -> bytes:
    """A safetensors file with the weights, and with the card in its metadata."""
    state = {name: value.cpu().contiguous() for name, value in parser.state_dict().items()}
    return safetensors.torch.save(state, metadata={CARD: json.dumps(card.to_json())})


def to_onnx(parser: FaceParser, card: ModelCard, options: OnnxOptions = OnnxOptions()) -> bytes:
    """The network as an ONNX file. Raises ImportError without the packages of the extra `onnx`."""
    import onnxscript  # noqa: F401  (fails early: torch's exporter needs it and reports that in a long message)

    size, dynamic = card.preprocessing.size, torch.export.Dim.DYNAMIC
    # Sizes that vary all differ in the example, so that the exporter takes none for a constant.
    varies = options.output == "logits" and not options.fixed_size
    image = torch.zeros(1 if options.fixed_size else 2, 3, *((96, 128) if varies else (size, size)))
    batch = {} if options.fixed_size else {0: dynamic}
    axes = batch | {2: dynamic, 3: dynamic} if varies else batch
    inputs = (image, torch.tensor([50, 70])) if options.has_size else (image,)
    with _quiet():
        program = torch.onnx.export(
            _Graph(parser, options),
            inputs,
            input_names=["image", "size"][: len(inputs)],
            output_names=[options.output],
            dynamic_shapes=(axes, None)[: len(inputs)],
            opset_version=options.opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = CARD, json.dumps(card.to_json())
    data: bytes = model.SerializeToString()
    return data


class _Graph(nn.Module):
    """The computation of the ONNX file."""

    def __init__(self, parser: FaceParser, options: OnnxOptions) -> None:
        super().__init__()
        self.parser = copy.deepcopy(parser).half() if options.float16 else parser
        self.options = options

    def forward(self, image: Tensor, size: Tensor | None = None) -> Tensor:
        logits: Tensor = self.parser(image.half() if self.options.float16 else image).float()
        if self.options.output == "logits":
            return logits
        canvas = image.shape[-1]
        height, width = (canvas, canvas) if size is None else size.tolist()
        if size is not None:
            for side in (height, width):
                torch._check(side > 0)
        longest = image.new_tensor(canvas) if size is None else size.max().float()
        rows = _interpolation(height, longest, canvas, logits.shape[2])
        columns = _interpolation(width, longest, canvas, logits.shape[3])
        return (rows @ logits @ columns.T).argmax(1).to(torch.uint8)


def _interpolation(count: int, longest: Tensor, canvas: int, cells: int) -> Tensor:
    """(count, cells) weights of the cells of a side of the logits in each pixel of a side of the photo.

    The products with those of both sides are the bilinear interpolation of `predict.resample`. Unlike `grid_sample`,
    ONNX has matrix products in every version and on every device.
    """
    centered = (torch.arange(count, dtype=torch.float32) + 0.5 - count / 2) / longest
    positions = ((centered * canvas / (canvas - 1) + 0.5) * (cells - 1)).clamp(0, cells - 1)
    return (1 - (positions[:, None] - torch.arange(cells)).abs()).clamp(min=0)


@torch.inference_mode()
def onnx_error(data: bytes, parser: FaceParser, size: int, options: OnnxOptions = OnnxOptions()) -> float:
    """The largest difference between ONNX Runtime's logits and the network's, on random images of several sizes.

    For labels, how much the logit of the file's class falls short of the largest one, over all pixels. Raises
    ImportError without ONNX Runtime, and ValueError if the difference exceeds the tolerance.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    random, largest = torch.Generator().manual_seed(0), 0.0
    for batch, height, width in ((1, size, size), *(() if options.fixed_size else _SHAPES)):
        sides = (height, width) if options.output == "logits" else (size, size)
        images = torch.randn(batch, 3, *sides, generator=random)
        inputs: dict[str, npt.NDArray[Any]] = {"image": images.numpy()}
        if options.has_size:
            inputs["size"] = np.array([height, width])
        (found,) = session.run([options.output], inputs)
        wanted = parser(images)
        if options.output == "labels":
            error, scale = _shortfall(found, wanted, size, height, width), float(wanted.abs().max())
        else:
            error, scale = float(np.abs(found - wanted.numpy()).max()), float(wanted.abs().max())
        if not error <= (HALF_TOLERANCE if options.float16 else TOLERANCE) * max(1.0, scale):
            raise ValueError(f"the exported file differs from the model by {error:.1e} on images {tuple(images.shape)}")
        largest = max(largest, error)
    return largest


def _shortfall(labels: npt.NDArray[np.uint8], logits: Tensor, canvas: int, height: int, width: int) -> float:
    """The largest difference between a pixel's largest logit and that of its label."""
    scores = torch.stack([resample(image, canvas, height, width) for image in logits])
    if labels.shape != (len(logits), height, width):
        raise ValueError(f"the exported file gives labels {labels.shape} for photos {(len(logits), height, width)}")
    chosen = scores.gather(1, torch.from_numpy(labels).long()[:, None])
    return float((scores.amax(1, keepdim=True) - chosen).max())


def safetensors_error(data: bytes, parser: FaceParser) -> float:
    """Returns 0.0, the difference between equal weights. Raises ValueError if the file holds other weights."""
    read = safetensors.torch.load(data)
    wanted = parser.state_dict()
    if set(read) != set(wanted) or not all(torch.equal(read[name], value.cpu()) for name, value in wanted.items()):
        raise ValueError("the exported file does not hold the network's weights")
    return 0.0


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the messages of torch's exporter about optional packages."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
