"""Networks with random weights, and what they take."""

import torch
from torch import Tensor, nn

from dmlcsr.model import DMLCSR, Architecture, FaceParser
from dmlcsr.model.layers import BatchNorm
from dmlcsr.taxonomy import CELEBAMASK_HQ, Taxonomy
from dmlcsr.weights import ModelCard, Preprocessing, pack_model


def imagenet_like(depth: int, naming: str) -> tuple[FaceParser, dict[str, Tensor]]:
    """A network with random weights, and its encoder's state dict as ImageNet checkpoints name it."""
    torch.manual_seed(depth)
    parser = FaceParser(Architecture(num_classes=11, depth=depth))
    stem = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")
    if naming == "sequence":
        stem = ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1")
    names = {f"stem.{i // 2}.{i % 2}.": f"{name}." for i, name in enumerate(stem)}
    state = {"fc.weight": torch.zeros(10, 8), "fc.bias": torch.zeros(10)}
    for key, value in parser.encoder.state_dict().items():
        prefix = next((prefix for prefix in names if key.startswith(prefix)), "")
        state[names.get(prefix, "") + key.removeprefix(prefix)] = value
    return parser, state


def untrained_model(width: float = 0.25, size: int = 128) -> dict[str, bytes]:
    """The files of a model directory."""
    torch.manual_seed(0)
    architecture = Architecture(num_classes=19, depth=18, width=width)
    card = ModelCard(architecture=architecture, taxonomy=CELEBAMASK_HQ, preprocessing=Preprocessing(size=size))
    return pack_model(FaceParser(architecture).eval(), card)


def on_meta(architecture: Architecture) -> DMLCSR:
    """A training network without memory for its weights."""
    with torch.device("meta"):
        return DMLCSR(architecture)


def weight_bytes(architecture: Architecture) -> int:
    return sum(parameter.nbytes for parameter in on_meta(architecture).parameters())


def kept_bytes(architecture: Architecture, batch_size: int, size: int) -> int:
    """Bytes that batch norms keep for their backward pass: most of a step's activations, but not all."""
    network, seen = on_meta(architecture), []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].nbytes)

    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.register_forward_pre_hook(note)
    network(torch.empty(batch_size, 3, size, size, device="meta"))
    return sum(seen)


def card(size: int = 64, taxonomy: Taxonomy = CELEBAMASK_HQ) -> ModelCard:
    """Makes the card of a small model."""
    architecture = Architecture(num_classes=taxonomy.num_classes, depth=18, width=0.125)
    return ModelCard(architecture=architecture, taxonomy=taxonomy, preprocessing=Preprocessing(size=size))


@torch.no_grad()
def balance(parser: FaceParser, images: Tensor) -> FaceParser:
    """Changes the classifier so that each class wins at some pixels of these images; as drawn, one wins everywhere."""
    classifier, logits = parser.parsing_head.classifier, parser.eval()(images)
    assert classifier.bias is not None
    spread = logits.std((0, 2, 3)).clamp(min=1e-6)
    classifier.bias.sub_(logits.mean((0, 2, 3))).div_(spread)
    classifier.weight.div_(spread.view(-1, 1, 1, 1))
    return parser
