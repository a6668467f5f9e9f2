"""Batches too large to be evaluated at once, against torch's own losses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dmlcsr.losses.softmax_terms import weighted_terms
from dmlcsr.losses.terms import CrossEntropyTerm
from tests.support.cuda import PretendedCuda

VALUES = 1 << 20
"""Above this many values at label size the images are evaluated in several parts."""


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, labels, weights of pixels and targets that differ from image to image: 3 + 2 images of 11 classes."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 11, 40, 40, generator=generator)
    label = torch.randint(0, 11, (5, 160, 160), generator=generator, dtype=torch.uint8)
    label[:, :9, 30:] = 255
    weights = torch.rand(5, 160, 160, generator=generator).masked_fill(label == 255, 0.0) / label.numel()
    target = torch.randn(5, 11, 160, 160, generator=generator).softmax(1)
    assert target.numel() > VALUES > 2 * target[0].numel()
    return logits, label, weights, target


def value_and_gradient(total: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return total.detach(), torch.autograd.grad(total, logits)[0]


@pytest.mark.parametrize("kind", [Tensor, PretendedCuda])
@pytest.mark.parametrize("distilled", [False, True])
def test_each_image_of_a_large_batch_has_its_own_weights_and_targets(
    batch: tuple[Tensor, Tensor, Tensor, Tensor], distilled: bool, kind: type[Tensor]
) -> None:
    logits, label, weights, target = batch
    logits = logits.clone().as_subclass(kind).requires_grad_()
    terms = [CrossEntropyTerm("only", weights, 2.0, is_distilled=distilled)]
    total, _ = weighted_terms(logits, label, terms, target=target if distilled else None)
    scores = F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=True)
    if distilled:
        by_pixel = F.kl_div(scores.log_softmax(1), target, reduction="none").sum(1)
    else:
        by_pixel = F.cross_entropy(scores, label.long(), ignore_index=255, reduction="none")
    expected = value_and_gradient(2 * (weights * by_pixel).sum(), logits)
    for got, wanted in zip(value_and_gradient(total, logits), expected, strict=True):
        torch.testing.assert_close(got.as_subclass(Tensor), wanted.as_subclass(Tensor), rtol=1e-4, atol=1e-8)
