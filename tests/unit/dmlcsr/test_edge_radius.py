"""The width of the edges reaches every loss and target that is made of them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dmlcsr.edges import edge_targets
from dmlcsr.losses import PAPER_WEIGHTS, binary_weights, category_weights, dml_loss
from dmlcsr.regulation import distillation_targets

RADII = [1, 2, 3]


def faces() -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Labels (2, 24, 24) of four classes, and logits of the three tasks at their size."""
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 4, (2, 3, 3), generator=generator, dtype=torch.uint8)
    label = small.repeat_interleave(8, 1).repeat_interleave(8, 2)
    parsing, binary, category = (torch.randn(2, classes, 24, 24, generator=generator) for classes in (4, 2, 4))
    return label, (parsing, binary, category)


@pytest.mark.parametrize("radius", RADII)
def test_the_losses_are_of_edges_of_the_given_radius(radius: int) -> None:
    label, (parsing, binary, category) = faces()
    parts = dml_loss((parsing, binary, category), label, PAPER_WEIGHTS, edge_radius=radius)
    edges, classes = edge_targets(label, radius)
    wanted = F.cross_entropy(binary, edges.long(), binary_weights(edges))
    assert parts.binary_edge.item() == pytest.approx(wanted.item(), rel=1e-5)
    wanted = F.cross_entropy(category, classes.long(), category_weights(classes, 4))
    assert parts.category_edge.item() == pytest.approx(wanted.item(), rel=1e-5)
    by_pixel = F.cross_entropy(parsing, label.long(), reduction="none")
    wanted = torch.stack([nll[edge == 1].mean() for nll, edge in zip(by_pixel, edges, strict=True)]).mean()
    assert parts.binary_edge_attention.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("radius", RADII)
def test_the_targets_of_distillation_are_of_edges_of_the_given_radius(radius: int) -> None:
    label, logits = faces()
    targets = distillation_targets(logits, label, 1.0, edge_radius=radius)  # the hard labels alone
    assert targets.binary_edge is not None and targets.category_edge is not None
    edges, classes = edge_targets(label, radius)
    assert torch.equal(targets.binary_edge.argmax(1), edges.long())
    assert torch.equal(targets.category_edge.argmax(1), classes.long())
