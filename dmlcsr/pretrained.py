"""Import of published weights: the authors' checkpoints, and ImageNet ResNets for the encoder (docs/weights.md).

The keys of the source are renamed to ours. A key without a counterpart keeps its name, so that the report lists it.
"""

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from dmlcsr.model import DMLCSR, Architecture, FaceParser
from dmlcsr.model.architecture import depth_of
from dmlcsr.taxonomy import Taxonomy
from dmlcsr.weights import KeyReport, ModelCard, Preprocessing, load_matching

NETWORK_INPUT = 473
"""Height and width of the input in pixels in the paper's experiments."""

State = Mapping[str, Tensor]

_GRAPH = "context.dualgcn."
_ATTENTION = _GRAPH + "gcn_local_attention."

_STEM_OF_SIX = {
    "conv1.": "encoder.stem.0.0.",
    "bn1.": "encoder.stem.0.1.",
    "conv2.": "encoder.stem.1.0.",
    "bn2.": "encoder.stem.1.1.",
    "conv3.": "encoder.stem.2.0.",
    "bn3.": "encoder.stem.2.1.",
}
_STEM_IN_SEQUENCE = {
    "conv1.0.": "encoder.stem.0.0.",
    "conv1.1.": "encoder.stem.0.1.",
    "conv1.3.": "encoder.stem.1.0.",
    "conv1.4.": "encoder.stem.1.1.",
    "conv1.6.": "encoder.stem.2.0.",
    "bn1.": "encoder.stem.2.1.",
}
_STEM_OF_ONE = {"conv1.": "encoder.stem.0.0.", "bn1.": "encoder.stem.0.1."}
_STAGES = {f"layer{stage}.": f"encoder.layer{stage}." for stage in (1, 2, 3, 4)}

_OFFICIAL = {
    **_STEM_OF_SIX,
    **_STAGES,
    "context.conva.": "context.reduce.",
    "context.convb.": "context.refine.",
    "context.bottleneck.": "context.output.",
    _GRAPH + "local.0.": "context.spatial.down.0.0.",
    _GRAPH + "local.1.": "context.spatial.down.0.1.",
    _GRAPH + "local.2.": "context.spatial.down.1.0.",
    _GRAPH + "local.3.": "context.spatial.down.1.1.",
    _GRAPH + "local.4.": "context.spatial.down.2.0.",
    _GRAPH + "local.5.": "context.spatial.down.2.1.",
    _ATTENTION + "node_k.": "context.spatial.key.",
    _ATTENTION + "node_q.": "context.spatial.query.",
    _ATTENTION + "node_v.": "context.spatial.value.",
    _ATTENTION + "conv_wg.": "context.spatial.mix.",
    _ATTENTION + "bn_wg.": "context.spatial.mix_norm.",
    _ATTENTION + "out.": "context.spatial.project.",
    _ATTENTION + "gamma": "context.spatial.gamma",
    _GRAPH + "phi.": "context.feature.nodes.0.",
    _GRAPH + "bn_phi.": "context.feature.nodes.1.",
    _GRAPH + "theta.": "context.feature.basis.0.",
    _GRAPH + "bn_theta.": "context.feature.basis.1.",
    _GRAPH + "conv_adj.": "context.feature.adjacency.",
    _GRAPH + "bn_adj.": "context.feature.adjacency_norm.",
    _GRAPH + "conv_wg.": "context.feature.mix.",
    _GRAPH + "bn_wg.": "context.feature.mix_norm.",
    _GRAPH + "conv3.": "context.feature.project.0.",
    _GRAPH + "bn3.": "context.feature.project.1.",
    _GRAPH + "gamma1": "context.feature.gamma",
    _GRAPH + "final.": "context.fuse.",
    "layer6.conv1.": "parsing_head.deep.",
    "layer6.conv2.": "parsing_head.shallow.",
    "layer6.conv3.0.": "parsing_head.fuse.0.0.",
    "layer6.conv3.1.": "parsing_head.fuse.0.1.",
    "layer6.conv3.2.": "parsing_head.fuse.1.0.",
    "layer6.conv3.3.": "parsing_head.fuse.1.1.",
    "layer6.conv4.": "parsing_head.classifier.",
    "edge_layer.conv1.": "edge_head.levels.0.",
    "edge_layer.conv2.": "edge_head.levels.1.",
    "edge_layer.conv3.": "edge_head.levels.2.",
    "edge_layer.conv4.": "edge_head.shared.",
    "edge_layer.conv5_b.": "edge_head.binary.",
    "edge_layer.conv5.": "edge_head.category.",
}
"""Prefixes of the authors' keys, mapped to ours. No key here is a prefix of another one, so the order is irrelevant."""

_PLAIN_NORMS = (".bn_wg.", ".bn_adj.")
"""Parts of the keys of norms that are plain BatchNorm in the authors' network."""
_OFFICIAL_CLASSIFIER = "layer6.conv4.weight"


def read_checkpoint(data: bytes | Path) -> dict[str, Tensor]:
    """Reads the tensors of a `.pth` or `.safetensors` file to the CPU.

    A state dict nested under "state_dict" is unwrapped, and the prefix "module." of `DataParallel` is removed. Only
    tensors and plain containers are unpickled. Raises ValueError for another kind of file or other objects in it.
    """
    raw = data.read_bytes() if isinstance(data, Path) else data
    try:
        content = _read_safetensors(raw) if raw[8:9] == b"{" else _read_pth(raw)
    except Exception as error:  # both readers raise many kinds of error for broken files
        raise ValueError("the checkpoint is neither a .safetensors file nor a .pth file of tensors only") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ValueError("the checkpoint holds no state dict")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"the checkpoint is not a state dict: {key!r} holds a {type(value).__name__}")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _read_safetensors(raw: bytes) -> object:
    return safetensors.torch.load(raw)


def _read_pth(raw: bytes) -> object:
    if zipfile.is_zipfile(io.BytesIO(raw)):
        with zipfile.ZipFile(io.BytesIO(raw)) as parts:
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
                raise ValueError("its parts are compressed, so that a small file could expand to a large one")
    return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)


def is_official(state: State) -> bool:
    """True if the state dict has keys of the authors' graph head."""
    return any(key.startswith(_GRAPH) for key in state)


def official_architecture(state: State) -> Architecture:
    """The architecture of an authors' checkpoint. Raises ValueError if the state dict is not theirs."""
    classifier = state.get(_OFFICIAL_CLASSIFIER)
    if classifier is None or classifier.ndim != 4 or not is_official(state):
        raise ValueError(f"not a checkpoint of the authors' network: {_GRAPH}* or {_OFFICIAL_CLASSIFIER} is missing")
    return Architecture(num_classes=classifier.shape[0], depth=_depth(state), residual_activation=True)


def official_to_ours(state: State) -> dict[str, Tensor]:
    """The authors' state dict under our keys, with the edge heads if it has them.

    Their norm layer scales by |weight| + 1e-5, which becomes the weight of a plain BatchNorm. The norms of the graph
    convolutions are plain already. Their norms count no batches, so `num_batches_tracked` starts at 0.
    """
    return _translate({key: _plain_norm_weight(key, value) for key, value in state.items()}, _OFFICIAL)


def _plain_norm_weight(key: str, value: Tensor) -> Tensor:
    is_norm_weight = value.ndim == 1 and key.endswith(".weight")
    if is_norm_weight and not any(plain in key for plain in _PLAIN_NORMS):
        return value.abs() + 1e-5
    return value


def imagenet_to_ours(state: State) -> dict[str, Tensor]:
    """The state dict of an ImageNet ResNet under the keys of our encoder.

    A stem of three convolutions is named conv1.0 ... conv1.6 with bn1, or conv1/bn1 ... conv3/bn3; one of a single
    convolution conv1/bn1. The classifier `fc` has no counterpart and keeps its name.
    """
    several = _STEM_IN_SEQUENCE if "conv1.0.weight" in state else _STEM_OF_SIX
    return _translate(state, {**(_STEM_OF_ONE if _stem(state) == "conv7" else several), **_STAGES})


def imagenet_architecture(state: State, num_classes: int) -> Architecture:
    """The architecture around an ImageNet ResNet. Raises ValueError if the state dict is not one of a known depth."""
    return Architecture(num_classes=num_classes, depth=_depth(state), stem=_stem(state))


def _stem(state: State) -> str:
    """The stem of an ImageNet ResNet, by the names and shapes of its first convolutions."""
    if "conv1.0.weight" not in state and "conv3.weight" not in state:
        return "conv7"
    first = state.get("conv1.0.weight", state.get("conv1.weight"))
    return "deep32" if first is not None and first.shape[:1] == (32,) else "deep"


def import_checkpoint(
    state: State, taxonomy: Taxonomy, *, size: int = NETWORK_INPUT, seed: int = 0
) -> tuple[DMLCSR | FaceParser, ModelCard, KeyReport]:
    """The network of an authors' checkpoint, or a face parser around an ImageNet ResNet, in eval mode.

    An authors' checkpoint with edge heads gives the training network, so that every key is used. Tensors that the
    source lacks are initialized from `seed` and reported as missing. Raises ValueError if the state dict is of
    neither kind, if it lacks weights of the encoder, or if its number of classes is not the taxonomy's.
    """
    if is_official(state):
        architecture, ours = official_architecture(state), official_to_ours(state)
        source = "authors"
        preprocessing = Preprocessing(size=size, channel_order="bgr", border_color=(0, 0, 0))
    else:
        architecture = imagenet_architecture(state, taxonomy.num_classes)
        ours, source, preprocessing = imagenet_to_ours(state), "imagenet", Preprocessing(size=size)
    card = ModelCard(
        architecture=architecture,
        taxonomy=taxonomy,
        preprocessing=preprocessing,
        lineage={"imported_from": source},
    )
    has_edges = any(key.startswith("edge_head.") for key in ours)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DMLCSR(architecture) if has_edges else FaceParser(architecture)
    report = load_matching(network, ours)
    _require_encoder(architecture, report)
    return network.eval(), card, report


def _require_encoder(architecture: Architecture, report: KeyReport) -> None:
    """Raises ValueError if a weight of the encoder was not in the checkpoint: it would stay random.

    Also if the checkpoint has more than a ResNet, such as squeeze-and-excitation: without it the others are useless.
    """
    absent, extra = (
        [key.removeprefix("encoder.") for key in keys if key.startswith("encoder.")]
        for keys in (report.missing, report.unexpected)
    )
    kind, hint = f"ResNet-{architecture.depth}", "docs/weights.md lists files that fit"
    if absent:
        raise ValueError(
            f"the checkpoint lacks {len(absent)} weights of a {kind} with the stem {architecture.stem}, or has them in "
            f"another shape: {_names(absent)}; {hint}"
        )
    if extra:
        raise ValueError(f"the checkpoint holds {len(extra)} weights that a {kind} has not: {_names(extra)}; {hint}")


def _names(keys: Sequence[str]) -> str:
    return ", ".join(keys[:6]) + (" ..." if len(keys) > 6 else "")


def _translate(state: State, prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """The state dict with their prefixes replaced by ours; a norm without a count of batches gets 0."""
    ours: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _rename(key, prefixes)
        ours[name] = value
        if name != key and name.endswith(".running_mean"):
            ours.setdefault(name.removesuffix("running_mean") + "num_batches_tracked", torch.tensor(0))
    return ours


def _rename(key: str, prefixes: Mapping[str, str]) -> str:
    for theirs, ours in prefixes.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def _depth(state: State) -> int:
    """The depth of a ResNet, inferred from its keys. Raises ValueError if they match no known ResNet."""
    found = [re.match(r"layer([1-4])\.(\d+)\.conv1\.weight$", key) for key in state]
    pairs = {(int(match[1]), int(match[2])) for match in found if match}
    if not pairs:
        raise ValueError("neither the authors' network nor a ResNet: the checkpoint has no key layer1.0.conv1.weight")
    blocks = tuple(sum(stage == layer for layer, _ in pairs) for stage in (1, 2, 3, 4))
    return depth_of(blocks, 4 if "layer1.0.conv3.weight" in state else 1)
