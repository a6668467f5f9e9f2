"""One deployable file of a face parser, compared with the network that it was made from.

ONNX: input `image` (B, 3, H, W) float32, normalised as the card says; output `logits` (B, C, h, w) float32 at a quarter
of that size, to be upsampled (bilinear, align_corners) by whoever needs labels. B, H and W are free. The card is in the
file's metadata, under `model.json`; in a safetensors file too.
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
"""Of a difference between logits, relative to the largest one (at least 1): float32 kernels differ in their order."""
_SHAPES = ((1, 64, 64), (2, 97, 131))
"""Compared beside the size of the card: batch, height, width."""
Run = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def to_safetensors(parser: FaceParser, card: ModelCard) -> bytes:
    """The weights and, in the metadata, the card."""
    state = {name: value.cpu().contiguous() for name, value in parser.state_dict().items()}
    return safetensors.torch.save(state, metadata={CARD: json.dumps(card.to_json())})


def to_onnx(parser: FaceParser, card: ModelCard) -> bytes:
    """The network as an ONNX file. Raises ImportError without the packages of the extra `onnx`."""
    import onnxscript  # noqa: F401  (torch's exporter needs it, and says so only in a long message)

    dynamic = torch.export.Dim.DYNAMIC
    with _quiet():
        program = torch.onnx.export(
            parser,
            (torch.zeros(2, 3, 96, 128),),  # all different, so that none is taken for a constant
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
    """Largest difference of ONNX Runtime's logits from the network's, on random images of several sizes.

    Raises ImportError without ONNX Runtime, ValueError where they differ by more than TOLERANCE.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = session.run(["logits"], {"image": images})[0]
        return found

    return max(_error(run, parser, images) for images in _images(size))


def safetensors_error(data: bytes, parser: FaceParser) -> float:
    """0.0. Raises ValueError where the file does not hold the network's very weights."""
    read = safetensors.torch.load(data)
    wanted = parser.state_dict()
    if set(read) != set(wanted) or not all(torch.equal(read[name], value.cpu()) for name, value in wanted.items()):
        raise ValueError("the file that was written does not hold the network's weights")
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
    """Without what torch's exporter says about packages that are not needed."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
