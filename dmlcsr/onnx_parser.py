"""Face parsers of any architecture: an ONNX file, and a card that says how it is used (docs/weights.md)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmlcsr.taxonomy import Taxonomy
from dmlcsr.weights import ModelCard, Preprocessing

_RARE = 1e-12
"""Probability of a class that the file does not know: its logarithm must be finite."""


@dataclass(frozen=True, kw_only=True)
class OnnxCard:
    """Describes how images are prepared for an ONNX file, and what its output means."""

    preprocessing: Preprocessing
    taxonomy: Taxonomy
    output: str
    """Name of the output (B, N, h, w) with logits or scores before the softmax."""

    stride: int
    """Ratio of the input's height to the output's."""

    classes: tuple[int, ...]
    """Id in the taxonomy of each of the N channels; several channels may be parts of one class."""

    align_corners: bool = False
    """Corners of the output lie on the corner pixels of the input; False: on the corners of its area."""

    lineage: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")


def exported_card(data: bytes) -> OnnxCard | None:
    """The card inside a file that `export` wrote; None for other files. Raises ValueError if it is damaged."""
    text = _session(data).get_modelmeta().custom_metadata_map.get("model.json")
    if text is None:
        return None
    try:
        card = ModelCard.from_json(json.loads(text))
    except RecursionError as error:
        raise ValueError("the card inside the file is nested too deeply") from error
    return OnnxCard(
        preprocessing=card.preprocessing,
        taxonomy=card.taxonomy,
        output="logits",
        stride=4,
        classes=tuple(range(card.taxonomy.num_classes)),
        align_corners=True,
        lineage=card.lineage,
    )


class OnnxParser(nn.Module):
    """Images (B, 3, S, S), prepared as the card says -> logits of the taxonomy's classes (B, C, h, w).

    The logits lie as those of our networks do, corners on corner pixels. Raises ImportError without ONNX Runtime, and
    ValueError if file and card do not belong together.
    """

    def __init__(self, data: bytes, card: OnnxCard) -> None:
        super().__init__()
        self.card = card
        self.session = _session(data)
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(
                f"the file needs the inputs {', '.join(value.name for value in inputs)}; expected an image"
            )
        self.input = inputs[0]
        known = [value.name for value in self.session.get_outputs()]
        if card.output not in known:
            raise ValueError(f"the file has no output {card.output!r}; its outputs are {', '.join(known)}")
        self._check()

    @property
    def has_fixed_size(self) -> bool:
        """True if the file takes images of one size only."""
        return any(isinstance(side, int) for side in self.input.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        logits = self._run(x)
        if not self.card.align_corners:
            # At the input's own size both kinds of corners are the same pixels.
            logits = F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)
        ids, num_classes = self.card.classes, self.card.taxonomy.num_classes
        if ids == tuple(range(num_classes)):
            return logits
        sums = logits.new_zeros(len(x), num_classes, *logits.shape[2:])
        index = torch.tensor(ids, device=x.device)
        return sums.index_add(1, index, logits.softmax(1)).clamp(min=_RARE).log()

    def _run(self, x: Tensor) -> Tensor:
        """The output of the file, float32. A file for single images gets one after the other."""
        kind = torch.float16 if self.input.type == "tensor(float16)" else torch.float32
        pieces = x.split(1) if self.input.shape[0] == 1 else (x,)
        feeds = [{self.input.name: piece.to("cpu", kind).contiguous().numpy()} for piece in pieces]
        found = [torch.from_numpy(self.session.run([self.card.output], feed)[0]) for feed in feeds]
        return torch.cat(found).float().to(x.device)

    def _check(self) -> None:
        """Runs the file on an empty image. Raises ValueError if the answer is not what the card says."""
        size, num_channels = self.card.preprocessing.size, len(self.card.classes)
        try:
            shape = tuple(self._run(torch.zeros(1, 3, size, size)).shape)
        except Exception as error:  # ONNX Runtime raises classes of its own for each kind of fault
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"the file does not run on an image of size {size} ({reason})") from error
        if len(shape) != 4:
            raise ValueError(f"the output {self.card.output} is {shape}; expected (1, classes, height, width)")
        if shape[1] != num_channels:
            raise ValueError(f"the output {self.card.output} has {shape[1]} channels, the card names {num_channels}")
        if any(abs(side - size / self.card.stride) >= 1 for side in shape[2:]):
            raise ValueError(
                f"the output {self.card.output} is {shape[2]}x{shape[3]} for an image of size {size}; "
                f"that is not the card's stride of {self.card.stride}"
            )


def _session(data: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # as in `_check`
        raise ValueError(f"not a usable ONNX file ({' '.join(str(error).split())[:200]})") from error
