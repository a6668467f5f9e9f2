"""Model directories: `model.safetensors` holds the weights, `model.json` describes them (the model card).

A directory may hold `edge_head.safetensors` too: the heads that only a training needs.
The functions work on bytes, so that any storage can hold the files. Nothing is unpickled.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dmlcsr.augment import BORDER_COLOR, Color
from dmlcsr.model import DMLCSR, Architecture, FaceParser
from dmlcsr.model.dmlcsr import parser_of_state
from dmlcsr.taxonomy import Taxonomy, get_taxonomy, parse_taxonomy

MODEL_FILES = ("model.safetensors", "model.json")
EDGE_HEAD = "edge_head.safetensors"
FORMAT_VERSION = 2
"""Version of the card; version 1, of release 0.1, holds the name of a published taxonomy instead of all of it."""
_MAX_SIZE = 8192
"""Largest accepted input size in pixels: a damaged card must not make a reader allocate gigabytes."""

_Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The preprocessing of pixels before the network: resize, x / 255, channel order, (x - mean) / std."""

    size: int
    """Height and width of the network input in pixels, at least 2."""

    mean: _Triple = (0.485, 0.456, 0.406)
    std: _Triple = (0.229, 0.224, 0.225)
    """Mean and standard deviation of pixel values in 0..1, in the order in which the network gets the channels."""

    channel_order: str = "rgb"
    """"rgb" or "bgr". The authors' network gets BGR pixels with the mean and std of RGB."""

    border_color: Color = BORDER_COLOR
    """RGB of the input outside the image; that of the authors' network is black."""

    fit: str = "letterbox"
    """"letterbox" shows the whole image in the middle of the square, "stretch" fills the square with it."""

    def __post_init__(self) -> None:
        if not 2 <= self.size <= _MAX_SIZE:
            raise ValueError(f"preprocessing.size must be from 2 to {_MAX_SIZE} pixels, got {self.size}")
        if self.fit not in ("letterbox", "stretch"):
            raise ValueError(f"preprocessing.fit must be letterbox or stretch, got {self.fit!r}")
        if not all(0 <= value <= 255 for value in self.border_color):
            raise ValueError(f"preprocessing.border_color must be from 0 to 255, got {self.border_color}")
        if self.channel_order not in ("rgb", "bgr"):
            raise ValueError(f"preprocessing.channel_order must be rgb or bgr, got {self.channel_order!r}")
        if not all(math.isfinite(value) for value in self.mean + self.std) or min(self.std) <= 0:
            raise ValueError("preprocessing.mean must be finite, and preprocessing.std finite and above 0")


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The content of `model.json`.

    Raises ValueError for a taxonomy with another number of classes than the network.
    """

    architecture: Architecture
    taxonomy: Taxonomy
    preprocessing: Preprocessing
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Scores by name; NaN is written as null."""

    lineage: Mapping[str, Any] = field(default_factory=dict)
    """The origin of the weights, as JSON-able values: run, data set, epoch and the like."""

    def __post_init__(self) -> None:
        wanted, got = self.taxonomy.num_classes, self.architecture.num_classes
        if wanted != got:
            raise ValueError(f"taxonomy {self.taxonomy.name!r} has {wanted} classes, but the network has {got}")

    def to_json(self) -> dict[str, Any]:
        """Returns the card as JSON-able values, with the format version."""
        return {
            "format_version": FORMAT_VERSION,
            "architecture": asdict(self.architecture),
            "taxonomy": self.taxonomy.to_dict(),
            "preprocessing": asdict(self.preprocessing),
            "metrics": {k: float(v) if math.isfinite(v) else None for k, v in self.metrics.items()},
            "lineage": dict(self.lineage),
        }

    @classmethod
    def from_json(cls, value: object) -> "ModelCard":
        """The inverse of `to_json`. Raises ValueError, with the key, for content that `to_json` would not write."""
        content = _mapping(value, "the card")
        version = content.get("format_version")
        if version not in (1, FORMAT_VERSION):
            raise ValueError(f"model.json has format version {version!r}, this program reads 1 and {FORMAT_VERSION}")
        metrics = _mapping(_get(content, "metrics"), "metrics")
        return cls(
            architecture=Architecture(**_fields(content, "architecture", _ARCHITECTURE, _LATER)),
            taxonomy=_taxonomy(_get(content, "taxonomy"), version),
            preprocessing=Preprocessing(**_fields(content, "preprocessing", _PREPROCESSING, _LATER)),
            metrics={name: _score(value, f"metrics.{name}") for name, value in metrics.items()},
            lineage=_mapping(_get(content, "lineage"), "lineage"),
        )


def _taxonomy(value: object, version: int) -> Taxonomy:
    if version == 1:
        return get_taxonomy(_typed(value, "taxonomy", str))
    try:
        return parse_taxonomy(value)
    except ValueError as error:
        raise ValueError(f"taxonomy: {error}") from error


@dataclass(frozen=True)
class KeyReport:
    """The result of loading weights by key; each tuple is in the order of its state dict."""

    loaded: tuple[str, ...]
    """Keys that got a value."""
    missing: tuple[str, ...]
    """Keys of the network that got no value."""
    unexpected: tuple[str, ...]
    """Keys of the source that were not used, each with the two shapes if they differ."""


def load_matching(module: nn.Module, state: Mapping[str, Tensor]) -> KeyReport:
    """Copies the tensors whose key and shape match into `module`, and reports the others."""
    own = module.state_dict()
    loaded = [key for key, value in own.items() if key in state and state[key].shape == value.shape]
    with torch.no_grad():
        for key in loaded:
            own[key].copy_(state[key])
    used = set(loaded)
    unexpected = [_why_unused(key, value, own.get(key)) for key, value in state.items() if key not in used]
    return KeyReport(tuple(loaded), tuple(key for key in own if key not in used), tuple(unexpected))


def _why_unused(key: str, value: Tensor, own: Tensor | None) -> str:
    if own is None:
        return key
    return f"{key} (shape mismatch: {tuple(value.shape)} in the source, {tuple(own.shape)} in the network)"


def pack_model(network: FaceParser | DMLCSR, card: ModelCard) -> dict[str, bytes]:
    """The files of a model directory, by name. A training network keeps its edge heads in a file of their own.

    Raises ValueError if the card does not describe this network.
    """
    if network.architecture != card.architecture:
        raise ValueError(f"the card describes {card.architecture}, but the network is {network.architecture}")
    state = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    edges = {key: state.pop(key) for key in list(state) if key.startswith("edge_head.")}
    weights = safetensors.torch.save(state)
    content = card.to_json() | {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    files = {"model.safetensors": weights}
    if edges:
        files[EDGE_HEAD] = safetensors.torch.save(edges)
        content["edge_head_sha256"] = hashlib.sha256(files[EDGE_HEAD]).hexdigest()
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metrics or lineage hold values that JSON cannot represent: {error}") from error
    return files | {"model.json": text.encode() + b"\n"}


def unpack_model(files: Mapping[str, bytes]) -> tuple[FaceParser, ModelCard]:
    """The face parser of a model directory, in eval mode and float32 on the CPU, and its card.

    Raises ValueError if a file is missing or damaged, or if the two do not belong together.
    """
    absent = [name for name in MODEL_FILES if name not in files]
    if absent:
        raise ValueError(f"not a model directory: {' and '.join(absent)} missing")
    content = _parse(files["model.json"])
    card = ModelCard.from_json(content)
    weights = files["model.safetensors"]
    if hashlib.sha256(weights).hexdigest() != content.get("weights_sha256"):
        raise ValueError("model.safetensors does not belong to model.json: its SHA-256 differs")
    try:
        # Half-precision weights are read too: inputs are float32, and layers do not take a mixture.
        state = {key: v.float() if v.is_floating_point() else v for key, v in safetensors.torch.load(weights).items()}
        return parser_of_state(card.architecture, state), card
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"model.safetensors does not hold the network of model.json: {error}") from error


def unpack_edge_head(card: bytes, data: bytes) -> dict[str, Tensor]:
    """The weights of `edge_head.safetensors`, of a model directory with this `model.json`.

    Raises ValueError if the file is damaged or belongs to another card.
    """
    if hashlib.sha256(data).hexdigest() != _parse(card).get("edge_head_sha256"):
        raise ValueError(f"{EDGE_HEAD} does not belong to model.json: its SHA-256 differs")
    try:
        return {key: value.float() for key, value in safetensors.torch.load(data).items()}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{EDGE_HEAD} is damaged: {error}") from error


def save_model(folder: Path, network: FaceParser | DMLCSR, card: ModelCard) -> None:
    """Writes a model directory to a local folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pack_model(network, card).items():
        (folder / name).write_bytes(data)


def load_model(folder: Path) -> tuple[FaceParser, ModelCard]:
    """Reads a model directory from a local folder; raises the errors of `unpack_model`."""
    found = [folder / name for name in MODEL_FILES if (folder / name).is_file()]
    return unpack_model({path.name: path.read_bytes() for path in found})


_ARCHITECTURE = {
    "num_classes": int, "depth": int, "width": float, "residual_activation": bool, "ddgcn": bool, "stem": str,
}  # fmt: skip
_LATER = ("stem", "border_color", "fit")
"""Fields that cards of earlier programs lack; their defaults are what those programs did."""
_PREPROCESSING = {"size": int, "mean": _Triple, "std": _Triple, "channel_order": str, "border_color": Color, "fit": str}


def _parse(data: bytes) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(data), "the card")
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"model.json is not JSON: {error}") from error


def _fields(
    content: Mapping[str, Any], name: str, types: Mapping[str, Any], optional: Collection[str]
) -> dict[str, Any]:
    """The keyword arguments of one dataclass of the card. Raises ValueError for missing, unknown or mistyped fields."""
    section = _mapping(_get(content, name), name)
    unknown = sorted(set(section) - set(types))
    if unknown:
        raise ValueError(f"model.json has an unknown key {name}.{unknown[0]}")
    wanted = [key for key in types if key in section or key not in optional]
    return {key: _typed(_get(section, key, name + "."), f"{name}.{key}", types[key]) for key in wanted}


def _get(content: Mapping[str, Any], key: str, where: str = "") -> Any:
    if key not in content:
        raise ValueError(f"model.json lacks {where}{key}")
    return content[key]


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    checked: Mapping[str, Any] = _typed(value, what, dict)
    return checked


def _score(value: object, what: str) -> float:
    return math.nan if value is None else float(_typed(value, what, float))


def _typed(value: Any, what: str, kind: Any) -> Any:
    """Returns `value` if it has the type `kind`, else raises ValueError.

    An integer is accepted as float; True and False are not accepted as numbers.
    """
    if kind in (_Triple, Color):
        if isinstance(value, list | tuple) and len(value) == 3:
            return tuple(_typed(item, what, float if kind is _Triple else int) for item in value)
        raise ValueError(f"model.json: {what} must be three numbers, got {value!r}")
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"model.json: {what} must be of type {kind.__name__}, got {value!r}")
    return value
