"""Procedural faces in memory, and the training step of `pipelines/training/loop.py` without Ray."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, AdamW

from dmlcsr.augment import Augmentation, augment, draw_pose
from dmlcsr.losses import PAPER_WEIGHTS, dml_loss
from dmlcsr.model import DMLCSR, Architecture
from dmlcsr.predict import normalize
from dmlcsr.synthetic import render_face
from dmlcsr.taxonomy import CELEBAMASK_HQ
from dmlcsr.weights import ModelCard, Preprocessing
from pipelines.training.finite import FiniteSteps

NUM_CLASSES = CELEBAMASK_HQ.num_classes


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a check is."""

    depth: int
    width: float
    size: int
    batch_size: int
    num_steps: int

    @property
    def card(self) -> ModelCard:
        architecture = Architecture(num_classes=NUM_CLASSES, depth=self.depth, width=self.width)
        return ModelCard(architecture=architecture, taxonomy=CELEBAMASK_HQ, preprocessing=Preprocessing(size=self.size))


def faces(first: int, count: int, size: int, epoch: int | None = None) -> tuple[Tensor, Tensor]:
    """(N, S, S, 3) images and (N, S, S) labels, uint8; augmented as in `epoch`, or as they are if it is None."""
    samples = []
    for index in range(first, first + count):
        face = render_face(0, index, size)
        image, label = face.image, face.label
        if epoch is not None:
            image, label = augment(image, label, CELEBAMASK_HQ, size, draw_pose(Augmentation(), 0, epoch, str(index)))
        samples.append((image, label))
    images, labels = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True))
    return images, labels


def noise(scale: Scale, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch of random images, and labels of blocks, made on the device."""
    batch, size = scale.batch_size, scale.size
    image = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=device)
    blocks = torch.randint(0, NUM_CLASSES, (batch, size // 8 + 1, size // 8 + 1), dtype=torch.uint8, device=device)
    label = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :size, :size]
    return image, label.contiguous()


class Training:
    """A network with its optimizer. `bf16`: under autocast, as the training of `pipelines` on CUDA."""

    def __init__(
        self, scale: Scale, device: torch.device, *, bf16: bool, adamw: bool = False, compiled: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.card, self.device, self.bf16 = scale.card, device, bf16
        self.network = DMLCSR(self.card.architecture)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            self.network.compile()
        weights = self.network.parameters()
        self.optimizer = (
            AdamW(weights, 2e-3, weight_decay=1e-4, fused=True)
            if adamw
            else SGD(weights, 1e-3, momentum=0.9, weight_decay=5e-4, fused=True)
        )
        self.finite = FiniteSteps(self.optimizer, device)

    def logits(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            parsing, binary, category = self.network(pixels)
        return parsing, binary, category

    def step(self, image: Tensor, label: Tensor) -> Tensor:
        """Makes one step of the training. Returns the loss, on the device."""
        total = dml_loss(self.logits(normalize(image, self.card.preprocessing)), label, PAPER_WEIGHTS).total
        total.backward()
        self.finite.step(torch.nn.utils.clip_grad_norm_(self.network.parameters(), 10.0))
        self.optimizer.zero_grad(set_to_none=True)
        return total.detach()

    def bare_step(self, pixels: Tensor) -> None:
        """Runs the forward and backward pass of the network with the cheapest possible loss, a sum."""
        sum(task.float().sum() for task in self.logits(pixels)).backward()  # type: ignore[union-attr]
        self.optimizer.zero_grad(set_to_none=True)
