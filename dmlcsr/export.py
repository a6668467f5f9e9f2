"""Export of a face parser to one deployable file, which is compared with the network.

ONNX: the input `image` is (B, 3, H, W) float32, normalized as the model card describes; the output `logits` is
(B, C, ceil(H/4), ceil(W/4)) float32. A label map is the argmax of the logits, upsampled bilinearly with aligned
corners. B, H and W may vary. Both kinds of file hold the card in their metadata, under the key `model.json`.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from dmlcsr.model import FaceParser
from dmlcsr.weights import ModelCard

CARD = "model.json"
TOLERANCE = 1e-4
"""Largest accepted difference between logits, relative to the largest logit or 1.

Kernels add float32 numbers in different orders, so results differ in the last digits.
"""
_SHAPES = ((1, 64, 64), (2, 97, 131))
"""(batch, height, width) of inputs that are compared besides the card's size: another batch, odd sides, no square."""
Run = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def to_safetensors(parser: FaceParser, card: ModelCard) -> bytes:
    """A safetensors file with the weights, and with the card in its metadata."""
    state = {name: value.cpu().contiguous() for name, value in parser.state_dict().items()}
    return safetensors.torch.save(state, metadata={CARD: json.dumps(card.to_json())})


def to_onnx(parser: FaceParser, card: ModelCard) -> bytes:
    """The network as an ONNX file. Raises ImportError without the packages of the extra `onnx`."""
    import onnxscript  # noqa: F401  (fails early: torch's exporter needs it and reports that in a long message)

    dynamic = torch.export.Dim.DYNAMIC
    with _quiet():
        program = torch.onnx.export(
            parser,
            (torch.zeros(2, 3, 96, 128),),  # sizes all differ, so that the exporter takes none for a constant
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = CARD, json.dumps(card.to_json())
    data: bytes = model.SerializeToString()
    return data


def onnx_error(data: bytes, parser: FaceParser, size: int) -> float:
    """The largest difference between ONNX Runtime's logits and the network's, on random images of several sizes.

    Raises ImportError without ONNX Runtime, and ValueError if the difference exceeds TOLERANCE.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = session.run(["logits"], {"image": images})[0]
        return found

    return max(_error(run, parser, images) for images in _images(size))


def safetensors_error(data: bytes, parser: FaceParser) -> float:
    """Returns 0.0, the difference between equal weights. Raises ValueError if the file holds other weights."""
    read = safetensors.torch.load(data)
    wanted = parser.state_dict()
    if set(read) != set(wanted) or not all(torch.equal(read[name], value.cpu()) for name, value in wanted.items()):
        raise ValueError("the exported file does not hold the network's weights")
    return 0.0


def _images(size: int) -> Iterator[Tensor]:
    random = torch.Generator().manual_seed(0)
    for batch, height, width in (*_SHAPES, (1, size, size)):
        yield torch.randn(batch, 3, height, width, generator=random)


@torch.inference_mode()
def _error(run: Run, parser: FaceParser, images: Tensor) -> float:
    wanted = parser(images).numpy()
    error = float(np.abs(run(images.numpy()) - wanted).max())
    if not error <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
        raise ValueError(f"the exported file differs from the model by {error:.1e} on images {tuple(images.shape)}")
    return error


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
