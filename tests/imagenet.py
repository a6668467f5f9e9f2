"""Compares the encoder with the ResNets of torchvision and timm, and lists the names and shapes of their weights.

python -m tests.imagenet           prints the largest difference of each network's maps; exit code 1 if one is too large
python -m tests.imagenet --write   writes tests/data/imagenet_state_dicts.json.xz: {package/model: {name: shape}}

Needs torchvision and timm, which are not among the dependencies: install them, beside the torch of this project, into
an environment of its own (`pip install --no-deps torchvision timm huggingface_hub`; timm 1.0.31 and torchvision 0.28.0
were used). No weights are downloaded: they are drawn from a seed, BatchNorm statistics included.

The four maps must agree. Theirs have strides 1, 2, 2, 2 and no dilation, ours 1, 2, 1, 1 and dilation 2 in layer4; for
the comparison our network gets their strides, which change no weight.
"""

import json
import lzma
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from dmlcsr.model import resnet
from dmlcsr.model.resnet import Features
from dmlcsr.pretrained import imagenet_architecture, imagenet_to_ours

FILE = Path(__file__).parent / "data" / "imagenet_state_dicts.json.xz"
TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101")
TIMM = (
    *TORCHVISION, "resnet18d", "resnet34d", "resnet50d", "resnet101d", "resnet50s", "resnet101s",
)  # fmt: skip
REFUSED = ("resnet26d", "resnet50c", "resnet101c", "wide_resnet50_2", "resnext50_32x4d", "seresnet50")
"""Models of timm whose weights fit no encoder of ours, in part or at all."""
TOLERANCE = 1e-5
"""Largest accepted difference, relative to the largest value of the map."""


def networks() -> dict[str, nn.Module]:
    """Every network with random weights, by package and model."""
    import timm
    import torchvision

    made: dict[str, nn.Module] = {f"torchvision/{name}": getattr(torchvision.models, name)() for name in TORCHVISION}
    return made | {f"timm/{name}": timm.create_model(name) for name in (*TIMM, *REFUSED)}


def randomize(network: nn.Module, seed: int) -> None:
    """Draws the values that start as 0 or 1: weights, biases and statistics of the norms."""
    random = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            for value, low, high in (
                (module.weight.data, 0.2, 0.8), (module.bias.data, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5),
            ):  # fmt: skip
                value.uniform_(low, high, generator=random)


@torch.no_grad()
def maps(network: nn.Module, images: Tensor) -> Features:
    """The outputs of the four stages of a network of torchvision or timm."""
    found: list[Tensor] = []
    for stage in (1, 2, 3, 4):
        network.get_submodule(f"layer{stage}").register_forward_hook(lambda *call: found.append(call[2]))
    network.eval()(images)
    return Features(*found)


@torch.no_grad()
def difference(theirs: nn.Module, seed: int) -> float:
    """The largest difference between the maps of their network and those of our encoder with its weights."""
    randomize(theirs, seed)
    images = torch.randn(2, 3, 97, 131, generator=torch.Generator().manual_seed(seed))
    state = theirs.state_dict()
    encoder = resnet.ResNet(imagenet_architecture(state, 2)).eval()
    ours = {key.removeprefix("encoder."): value for key, value in imagenet_to_ours(state).items()}
    encoder.load_state_dict({key: value for key, value in ours.items() if not key.startswith("fc.")})
    pairs = zip(encoder(images), maps(theirs, images), strict=True)
    return max(float((mine - other).abs().max() / other.abs().max()) for mine, other in pairs)


def main() -> int:
    torch.set_num_threads(1)
    resnet.STRIDES, resnet.DILATIONS = (1, 2, 2, 2), (1, 1, 1, 1)
    made = networks()
    if "--write" in sys.argv:
        shapes = {name: {key: list(v.shape) for key, v in net.state_dict().items()} for name, net in made.items()}
        FILE.write_bytes(lzma.compress(json.dumps(shapes).encode(), preset=9))
        return 0
    found = {
        name: difference(network, seed)
        for seed, (name, network) in enumerate(made.items())
        if name.partition("/")[2] not in REFUSED
    }
    for name, value in found.items():
        print(f"{name:<24}{value:.1e}")
    return int(not max(found.values()) <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
