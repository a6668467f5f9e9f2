"""Importing checkpoints: the authors', and those of ImageNet ResNets."""

import io
import json
import lzma
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from dmlcsr.model import DMLCSR, Architecture, FaceParser
from dmlcsr.pretrained import (
    import_checkpoint,
    official_architecture,
    read_checkpoint,
)
from dmlcsr.taxonomy import CELEBAMASK_HQ, LAPA
from dmlcsr.weights import (
    Preprocessing,
)
from tests.imagenet import REFUSED
from tests.support.commands import DATA
from tests.support.networks import imagenet_like


def pth(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_checkpoints_are_read_from_every_container(tmp_path: Path) -> None:
    state = {"a.weight": torch.arange(3.0), "b": torch.tensor(1)}
    wrapped = {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}
    (tmp_path / "x.pth").write_bytes(pth(state))
    for source in (pth(state), pth(wrapped), safetensors.torch.save(state), tmp_path / "x.pth"):
        got = read_checkpoint(source)
        assert got.keys() == state.keys() and all(torch.equal(got[key], state[key]) for key in state)


class _Arbitrary:
    """What a restricted unpickler must not build."""


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04", b"not a checkpoint", b"\x10\0\0\0\0\0\0\0{", pth([1, 2]), pth({}), pth({"a": 1}),
     pth({"a": _Arbitrary()}), pth(torch.zeros(2)), pth({3: torch.zeros(1)}), pth({"state_dict": {}})],
)  # fmt: skip
def test_anything_else_is_no_checkpoint(data: bytes) -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        read_checkpoint(data)


def official_shapes() -> dict[str, Tensor]:
    """The authors' state dict with ones for values, without the memory."""
    shapes = json.loads((DATA / "official_state_dict_c11.json").read_text())
    return {key: torch.ones(()).expand(shape) for key, shape in shapes.items()}


def test_importing_an_official_checkpoint_uses_every_key() -> None:
    network, card, report = import_checkpoint(official_shapes(), LAPA)
    assert isinstance(network, DMLCSR) and not network.training
    assert report.missing == report.unexpected == ()
    assert set(report.loaded) == set(network.state_dict())
    assert card.preprocessing == Preprocessing(size=473, channel_order="bgr", border_color=(0, 0, 0))
    assert card.architecture.residual_activation and card.taxonomy == LAPA


def test_an_official_checkpoint_for_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="19 classes, but the network has 11"):
        import_checkpoint(official_shapes(), CELEBAMASK_HQ)
    state = official_shapes()
    del state["layer6.conv4.weight"]
    with pytest.raises(ValueError, match=r"layer6.conv4.weight is missing"):
        official_architecture(state)


@pytest.mark.parametrize(("depth", "naming"), [(18, "six"), (18, "sequence"), (50, "sequence")])
def test_importing_an_imagenet_resnet_fills_the_encoder(depth: int, naming: str) -> None:
    source, state = imagenet_like(depth, naming)
    random_state = torch.get_rng_state()
    network, card, report = import_checkpoint(state, LAPA)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert isinstance(network, FaceParser)
    assert card.architecture == Architecture(num_classes=11, depth=depth)
    assert card.preprocessing == Preprocessing(size=473, channel_order="rgb")
    assert report.unexpected == ("fc.weight", "fc.bias")
    assert set(report.loaded) == {key for key in network.state_dict() if key.startswith("encoder.")}
    assert all(key.startswith(("context.", "parsing_head.")) for key in report.missing)
    encoder = network.encoder.state_dict()
    assert all(torch.equal(value, encoder[key]) for key, value in source.encoder.state_dict().items())


SHAPES = json.loads(lzma.decompress((DATA / "imagenet_state_dicts.json.xz").read_bytes()))
STEMS = {"": "conv7", "d": "deep32", "s": "deep"}


def imagenet_shapes(name: str) -> dict[str, Tensor]:
    """A state dict with the names and shapes of a published model, and ones for values."""
    return {key: torch.ones(()).expand(shape) for key, shape in SHAPES[name].items()}


@pytest.mark.parametrize("name", [name for name in SHAPES if name.partition("/")[2] not in REFUSED])
def test_published_imagenet_resnets_fill_the_whole_encoder(name: str) -> None:
    network, card, report = import_checkpoint(imagenet_shapes(name), LAPA)
    depth, kind = re.fullmatch(r".*/resnet(\d+)(\w?)", name).groups()  # type: ignore[union-attr]
    assert (card.architecture.depth, card.architecture.stem) == (int(depth), STEMS[kind])
    assert set(report.unexpected) == {"fc.weight", "fc.bias"}
    assert all(key in report.loaded for key in network.state_dict() if key.startswith("encoder."))
    with torch.no_grad():
        network.eval()(torch.randn(1, 3, 33, 47))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm/resnet50c", r"weights of a ResNet-50 with the stem deep32.*layer1.0.downsample.1"),
        ("timm/resnet101c", "weights of a ResNet-101 with the stem deep32"),
        ("timm/resnet26d", r"no known ResNet has \(2, 2, 2, 2\) bottleneck blocks"),
        ("timm/wide_resnet50_2", "lacks 176 weights of a ResNet-50 with the stem conv7"),
        ("timm/resnext50_32x4d", "weights of a ResNet-50 with the stem conv7"),
        ("timm/seresnet50", r"holds 64 weights that a ResNet-50 has not: layer1.0.se.fc1.weight"),
    ],
)
def test_a_checkpoint_that_leaves_encoder_weights_random_is_refused(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        import_checkpoint(imagenet_shapes(name), LAPA)


def test_a_checkpoint_without_a_stem_is_refused_with_its_names() -> None:
    layers = {key: value for key, value in imagenet_shapes("torchvision/resnet18").items() if key.startswith("layer")}
    with pytest.raises(ValueError, match=r"stem.0.0.weight, stem.0.1.weight"):
        import_checkpoint(layers, LAPA)


def test_a_checkpoint_of_an_unknown_depth_is_refused() -> None:
    _, state = imagenet_like(18, "sequence")
    with pytest.raises(ValueError, match=r"no known ResNet has \(2, 2, 2, 3\) basic blocks"):
        import_checkpoint(state | {"layer4.2.conv1.weight": torch.zeros(1)}, LAPA)
    with pytest.raises(ValueError, match="neither the authors' network nor a ResNet"):
        import_checkpoint({"weight": torch.zeros(1)}, LAPA)


def test_what_an_import_initialises_depends_on_the_seed_only() -> None:
    _, state = imagenet_like(18, "six")
    weights = [import_checkpoint(state, LAPA, seed=seed)[0].parsing_head.classifier.weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
