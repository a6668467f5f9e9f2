from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dmlcsr.edges import edge_targets
from dmlcsr.losses import PAPER_WEIGHTS, LossTerms, LossWeights, binary_weights, category_weights, dml_loss
from dmlcsr.losses.lovasz import lovasz_and_gradient, lovasz_by_batched_sort, lovasz_by_class, lovasz_softmax
from dmlcsr.losses.softmax_terms import weighted_terms
from dmlcsr.losses.terms import LOVASZ, CrossEntropyTerm
from dmlcsr.losses.upsample import BilinearResize
from dmlcsr.regulation import distillation_targets
from tests.support.commands import DATA

GOLDEN = dict(np.load(DATA / "regulation_edges_losses.npz"))
METRICS = dict(np.load(DATA / "losses_metrics.npz"))
TASKS = ("parsing", "binary", "category")
TERMS = [field.name for field in fields(LossWeights)]
Logits = tuple[Tensor, Tensor, Tensor]


def golden_logits(prefix: str = "") -> Logits:
    parsing, binary, category = (torch.from_numpy(GOLDEN[f"{prefix}{task}_logits"]) for task in TASKS)
    return parsing, binary, category


def golden_label() -> Tensor:
    return torch.from_numpy(GOLDEN["labels"])


def random_logits(batch: int, classes: int, height: int, width: int, **options: Any) -> Logits:
    generator = torch.Generator().manual_seed(0)
    parsing, binary, category = (
        torch.randn(batch, c, height, width, generator=generator, dtype=torch.float64).to(**options).requires_grad_()
        for c in (classes, 2, classes)
    )
    return parsing, binary, category


def random_label(batch: int, classes: int, height: int, width: int) -> Tensor:
    """Blocks of 3 x 3 with an ignored corner."""
    generator = torch.Generator().manual_seed(1)
    small = torch.randint(0, classes, (batch, height // 3 + 1, width // 3 + 1), generator=generator)
    label = small.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :height, :width].to(torch.uint8)
    label[:, :2, :2] = 255
    return label


def only(term: str) -> LossWeights:
    return LossWeights(**{name: float(name == term) for name in TERMS})


def assert_finite(terms: LossTerms, logits: Logits) -> tuple[Tensor, ...]:
    """The gradients, which are finite like every term."""
    assert all(torch.isfinite(term) for term in terms)
    gradients = torch.autograd.grad(terms.total, logits)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    return gradients


# Values


def test_every_term_equals_the_reference() -> None:
    terms = dml_loss(golden_logits(), golden_label(), PAPER_WEIGHTS)
    for name, value in terms._asdict().items():
        assert value.item() == pytest.approx(float(GOLDEN[f"loss_{name}"]), rel=0, abs=1e-6), name
    lovasz = lovasz_softmax(golden_logits()[0], golden_label())
    assert lovasz.item() == pytest.approx(float(GOLDEN["loss_lovasz"]), abs=1e-6)
    assert 2 * terms.parsing.item() - lovasz.item() == pytest.approx(float(GOLDEN["loss_ce"]), abs=1e-6)


def test_class_weights_equal_the_reference() -> None:
    binary, category = edge_targets(golden_label())
    np.testing.assert_allclose(binary_weights(binary), GOLDEN["binary_weights"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(category_weights(category, 6), GOLDEN["category_weights"], rtol=0, atol=1e-6)


def test_distilled_terms_equal_the_reference() -> None:
    label_weight = float(GOLDEN["hard_weight"])
    targets = distillation_targets(golden_logits("teacher_"), golden_label(), label_weight)
    terms = dml_loss(golden_logits(), golden_label(), PAPER_WEIGHTS, targets=targets)
    kl = 2 * terms.parsing.item() - float(GOLDEN["loss_lovasz"])
    assert kl == pytest.approx(float(GOLDEN["loss_kd_parsing"]), abs=1e-6)
    assert terms.binary_edge.item() == pytest.approx(float(GOLDEN["loss_kd_binary"]), abs=1e-6)
    assert terms.category_edge.item() == pytest.approx(float(GOLDEN["loss_kd_category"]), abs=1e-6)
    assert terms.binary_edge_attention.item() == pytest.approx(float(GOLDEN["loss_binary_edge_attention"]), abs=1e-6)


def test_a_parsing_target_alone_leaves_the_edges_hard() -> None:
    target = distillation_targets((golden_logits("teacher_")[0], None, None), golden_label(), 0.5)
    terms = dml_loss(golden_logits(), golden_label(), PAPER_WEIGHTS, targets=target)
    assert terms.binary_edge.item() == pytest.approx(float(GOLDEN["loss_binary_edge"]), abs=1e-6)
    assert terms.category_edge.item() == pytest.approx(float(GOLDEN["loss_category_edge"]), abs=1e-6)
    assert abs(terms.parsing.item() - float(GOLDEN["loss_parsing"])) > 1e-2


def test_total_is_the_weighted_sum_of_its_parts() -> None:
    weights = LossWeights(
        parsing=2, binary_edge=3, category_edge=5, binary_edge_attention=7, category_edge_attention=11
    )
    terms = dml_loss(golden_logits(), golden_label(), weights)
    expected = sum(getattr(weights, name) * getattr(terms, name).item() for name in TERMS)
    assert terms.total.item() == pytest.approx(expected, rel=1e-6)


# Lovasz-softmax and KL with their gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lovasz_and_its_gradient_equal_the_reference(dtype: torch.dtype) -> None:
    label = torch.from_numpy(METRICS["labels"])
    logits = torch.from_numpy(METRICS["logits"]).to(dtype).requires_grad_()
    loss = lovasz_softmax(logits, label)
    assert loss.item() == pytest.approx(float(METRICS["lovasz"]), abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    np.testing.assert_allclose(gradient, METRICS["lovasz_grad"], rtol=0, atol=1e-8)
    total, terms = weighted_terms(logits, label.to(torch.uint8), [], lovasz_weight=1.0)
    assert terms[LOVASZ] == loss
    (gradient,) = torch.autograd.grad(total, logits)
    np.testing.assert_allclose(gradient, METRICS["lovasz_grad"], rtol=0, atol=1e-8)


def test_kl_from_a_teacher_and_its_gradient_equal_the_reference() -> None:
    label = torch.from_numpy(METRICS["labels"]).to(torch.uint8)
    logits = torch.from_numpy(METRICS["logits"]).requires_grad_()
    target = torch.from_numpy(METRICS["teacher_logits"]).softmax(1)
    mean = (label != 255) / (label != 255).sum()
    total, terms = weighted_terms(logits, label, [CrossEntropyTerm("kl", mean, 1.0, is_distilled=True)], target=target)
    assert terms["kl"].item() == pytest.approx(float(METRICS["kl_hard_from_teacher"]), abs=1e-6)
    (gradient,) = torch.autograd.grad(total, logits)
    np.testing.assert_allclose(gradient, METRICS["kl_grad"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("distilled", [False, True])
def test_terms_are_the_same_in_any_order_and_have_names_of_their_own(distilled: bool) -> None:
    label = random_label(2, 4, 12, 12)
    logits, target = random_logits(2, 4, 3, 3)[0], random_logits(2, 4, 12, 12)[0].detach().softmax(1)
    masks = {"all": label != 255, "left": (label != 255) & (torch.arange(12) < 6), "rare": label == 3}
    terms = [CrossEntropyTerm(name, mask / mask.sum(), 2.0, name == "left") for name, mask in masks.items()]
    soft = target if distilled else None
    results = [weighted_terms(logits, label, order, target=soft, lovasz_weight=3.0) for order in (terms, terms[::-1])]
    assert results[0][1].keys() == {*masks, LOVASZ}
    torch.testing.assert_close(results[0][1], results[1][1])
    gradients = [torch.autograd.grad(total, logits)[0] for total, _ in results]
    torch.testing.assert_close(*gradients)
    with pytest.raises(ValueError, match="different names"):
        weighted_terms(logits, label, [*terms, terms[0]])


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 4.0])
def test_the_gpu_and_the_cpu_way_to_sort_agree(sharpness: float) -> None:
    label = random_label(2, 4, 23, 31)
    probs = (sharpness * random_logits(2, 6, 23, 31)[0].detach()).softmax(1)
    batched, by_class = lovasz_by_batched_sort(probs, label, 255), lovasz_by_class(probs, label, 255)
    torch.testing.assert_close(by_class[0], batched[0], rtol=0, atol=1e-7)
    torch.testing.assert_close(by_class[1] * probs, batched[1] * probs, rtol=0, atol=1e-7)
    assert (by_class[1].transpose(0, 1)[:, label == 255] == 0).all()


def test_lovasz_does_not_depend_on_the_number_of_threads() -> None:
    label, probs = random_label(2, 6, 40, 40), random_logits(2, 6, 40, 40)[0].softmax(1)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(lovasz_and_gradient(probs, label))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("builder", [lovasz_by_batched_sort, lovasz_by_class])
def test_a_perfect_prediction_has_no_lovasz_loss(builder: object) -> None:
    label = random_label(2, 4, 12, 12)
    probs = F.one_hot(label.long().clamp(max=3), 4).permute(0, 3, 1, 2).float()
    assert builder(probs, label, 255)[0].item() == 0.0  # type: ignore[operator]


# Gradients


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("distilled", [False, True])
def test_the_gradient_of_each_term_equals_finite_differences(term: str, distilled: bool) -> None:
    logits, label = random_logits(2, 3, 3, 2), random_label(2, 3, 7, 5)
    teacher = tuple(task.detach().flip(0) for task in logits)
    targets = distillation_targets(teacher, label, 0.25) if distilled else None  # type: ignore[arg-type]

    def total(*tasks: Tensor) -> Tensor:
        return dml_loss(tasks, label, only(term), targets=targets).total  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(total, logits, eps=1e-6, atol=1e-6)


def test_lovasz_gradient_equals_finite_differences() -> None:
    label = random_label(2, 3, 6, 5)
    logits = random_logits(2, 4, 6, 5)[0]
    assert torch.autograd.gradcheck(lambda x: lovasz_softmax(x, label), (logits,), eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("sizes", [((3, 5), (9, 17)), ((30, 1), (119, 7)), ((4, 4), (4, 4)), ((2, 3), (1, 70))])
def test_upsampling_and_its_gradient_equal_interpolate(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    small, large = sizes
    x = torch.randn(2, 3, *small, dtype=torch.float64, requires_grad=True)
    resize, expected = (
        BilinearResize.between(small, large, x),
        F.interpolate(x, large, mode="bilinear", align_corners=True),
    )
    torch.testing.assert_close(resize(x.detach()), expected)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(resize.transposed(upstream), torch.autograd.grad(expected, x, upstream)[0])


# Unusual batches


def test_an_image_without_edges_and_one_ignored_are_finite() -> None:
    logits, label = random_logits(3, 4, 4, 5), random_label(3, 4, 13, 18)
    label[1], label[2] = 2, 255
    terms = dml_loss(logits, label, PAPER_WEIGHTS)
    assert_finite(terms, logits)
    alone = dml_loss(tuple(t[:1] for t in logits), label[:1], PAPER_WEIGHTS)  # type: ignore[arg-type]
    assert terms.binary_edge_attention.item() == pytest.approx(alone.binary_edge_attention.item() / 3, rel=1e-6)


@pytest.mark.parametrize("value", [0, 2, 255])
def test_a_batch_of_one_label_has_no_edge_loss(value: int) -> None:
    logits, label = random_logits(2, 4, 4, 4), torch.full((2, 9, 9), value, dtype=torch.uint8)
    terms = dml_loss(logits, label, PAPER_WEIGHTS)
    gradients = assert_finite(terms, logits)
    assert [terms.binary_edge.item(), terms.binary_edge_attention.item(), terms.category_edge_attention.item()] == [
        0,
        0,
        0,
    ]
    assert (terms.parsing.item() == 0) == (value == 255)
    assert (gradients[0].abs().sum().item() == 0) == (value == 255)
    assert gradients[1].abs().sum().item() == 0


def test_a_class_of_one_pixel_and_extreme_logits_are_finite() -> None:
    logits, label = random_logits(1, 4, 12, 9, dtype=torch.float32), torch.zeros(1, 12, 9, dtype=torch.uint8)
    label[0, 5, 5] = 3
    for scale in (0.0, 1.0, 1e4):
        assert_finite(dml_loss(tuple(scale * task for task in logits), label, PAPER_WEIGHTS), logits)  # type: ignore[arg-type]


def test_a_non_finite_logit_makes_the_loss_non_finite() -> None:
    logits, label = random_logits(1, 3, 8, 8), random_label(1, 3, 8, 8)
    broken = logits[0].detach().clone()
    broken[0, 1, 5, 5] = float("nan")
    assert not torch.isfinite(dml_loss((broken, *logits[1:]), label, PAPER_WEIGHTS).total)


def test_ignored_pixels_have_no_gradient() -> None:
    logits, label = random_logits(2, 4, 12, 12), random_label(2, 4, 12, 12)
    targets = distillation_targets(logits, label, 0.5)
    for given in (None, targets):
        total = dml_loss(logits, label, PAPER_WEIGHTS, targets=given).total
        for gradient in torch.autograd.grad(total, logits):
            assert (gradient.transpose(0, 1)[:, label == 255] == 0).all()


def test_low_precision_is_reduced_in_float32_under_autocast() -> None:
    logits, label = random_logits(2, 4, 6, 6, dtype=torch.bfloat16), random_label(2, 4, 24, 24)
    expected = dml_loss(tuple(t.detach().float() for t in logits), label, PAPER_WEIGHTS)  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        terms = dml_loss(logits, label, PAPER_WEIGHTS)
    assert torch.equal(terms.total, expected.total)
    assert torch.autograd.grad(terms.total, logits[0])[0].dtype == torch.bfloat16


def test_without_gradients_only_values_are_made() -> None:
    logits, label = random_logits(1, 4, 6, 6), random_label(1, 4, 24, 24)
    with torch.no_grad():
        total = dml_loss(logits, label, PAPER_WEIGHTS).total
    assert not total.requires_grad
    assert total.item() == dml_loss(logits, label, PAPER_WEIGHTS).total.item()


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    logits = random_logits(2, 4, 4, 4)
    with pytest.raises(ValueError, match="uint8"):
        dml_loss(logits, torch.zeros(2, 8, 8, dtype=torch.int64), PAPER_WEIGHTS)
    with pytest.raises(ValueError, match="batch size"):
        dml_loss(logits, torch.zeros(3, 8, 8, dtype=torch.uint8), PAPER_WEIGHTS)
