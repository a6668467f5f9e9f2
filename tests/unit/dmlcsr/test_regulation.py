import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dmlcsr.regulation import (
    BatchNormStatistics,
    distillation_target,
    distillation_targets,
    reestimate,
    update_ensemble,
)
from tests.support.commands import DATA

GOLDEN = dict(np.load(DATA / "regulation_edges_losses.npz"))


def tensor(name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[name])


def test_ensembles_equal_the_reference_and_the_mean_of_all_students() -> None:
    students = tensor("students")
    ensemble = {"w": students[0]}
    for n, student in enumerate(students[1:], start=1):
        ensemble = update_ensemble(ensemble, {"w": student}, n)
        torch.testing.assert_close(ensemble["w"], tensor("ensembles")[n], rtol=0, atol=1e-6)
        torch.testing.assert_close(ensemble["w"], students[: n + 1].mean(0), rtol=0, atol=1e-12)


def test_the_first_ensemble_weighs_the_start_of_csr_like_the_first_student() -> None:
    old, new = {"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}
    assert update_ensemble(old, new, 1)["w"].item() == 2.0
    assert old["w"].item() == 1.0


def test_the_ensemble_keeps_types_and_takes_counters_of_the_student() -> None:
    old = {"w": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)}
    result = update_ensemble(old, {"w": torch.zeros(2), "n": torch.tensor(8)}, 3)
    assert result["w"].dtype == torch.bfloat16
    assert result["w"].tolist() == [0.75, 0.75]
    assert result["n"].item() == 8


def test_ensembles_of_different_models_are_refused() -> None:
    one = {"w": torch.ones(2)}
    with pytest.raises(ValueError, match="n = 1"):
        update_ensemble(one, one, 0)
    with pytest.raises(ValueError, match="keys"):
        update_ensemble(one, {"v": torch.ones(2)}, 1)
    with pytest.raises(ValueError, match="shape"):
        update_ensemble(one, {"w": torch.ones(3)}, 1)


def test_target_equals_the_reference() -> None:
    teacher = tensor("teacher_parsing_logits")
    target = distillation_target(teacher, tensor("labels"), float(GOLDEN["hard_weight"]))
    torch.testing.assert_close(target, tensor("target_parsing"), rtol=0, atol=1e-6)


def test_target_is_a_distribution_at_label_size_in_float32() -> None:
    teacher = torch.randn(2, 4, 5, 3, dtype=torch.bfloat16, requires_grad=True)
    label = torch.randint(0, 4, (2, 17, 9), dtype=torch.uint8)
    target = distillation_target(teacher, label, 0.25)
    assert target.shape == (2, 4, 17, 9)
    assert target.dtype == torch.float32
    assert not target.requires_grad
    torch.testing.assert_close(target.sum(1), torch.ones(2, 17, 9))
    with pytest.raises(ValueError, match=r"0\.\.1"):
        distillation_target(teacher, label, 1.5)


def test_a_decoupled_teacher_gives_parsing_targets_only() -> None:
    label = torch.randint(0, 4, (1, 8, 8), dtype=torch.uint8)
    targets = distillation_targets((torch.randn(1, 4, 2, 2), None, None), label, 0.5)
    assert targets.parsing is not None
    assert targets.binary_edge is None
    assert targets.category_edge is None


class Norms(nn.Module):
    """One of every kind that the model uses, each on its own view of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.BatchNorm1d(4), nn.BatchNorm2d(4, momentum=None), nn.BatchNorm3d(4)
        self.free = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x.flatten(2)).sum() + self.two(x).sum() + self.three(x[..., None]).sum() + self.free(x).sum()


def batches() -> list[Tensor]:
    return [tensor(f"bn_batch_{i}") for i in range(3)]


def collect(model: nn.Module, inputs: list[Tensor]) -> BatchNormStatistics:
    statistics = BatchNormStatistics(model)
    with statistics.collect():
        for batch in inputs:
            model(batch)
    return statistics


def test_batch_norm_statistics_equal_the_reference_for_every_kind() -> None:
    model = Norms().double().eval()
    collect(model, batches()).write()
    for norm in (model.one, model.two, model.three):
        torch.testing.assert_close(norm.running_mean, tensor("bn_mean"), rtol=0, atol=1e-6)
        torch.testing.assert_close(norm.running_var, tensor("bn_var"), rtol=0, atol=1e-6)


def test_collecting_changes_nothing_but_the_sums() -> None:
    model = Norms().double().eval()
    model.two.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    collect(model, batches())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert [model.training, model.one.training, model.two.training] == [False, False, True]
    assert [model.one.momentum, model.two.momentum] == [0.1, None]
    assert not model.one._forward_hooks


def test_statistics_of_two_workers_merge_to_those_of_one() -> None:
    single, merged = Norms().double(), Norms().double()
    collect(single, batches()).write()
    first, second = collect(merged, batches()[:1]), collect(merged, batches()[1:])
    for key, value in first.sums.items():
        value += second.sums[key]  # what all_reduce does
    first.write()
    for expected, got in zip(single.buffers(), merged.buffers(), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_writing_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="no batch"):
        BatchNormStatistics(Norms()).write()


def test_reestimation_sums_over_the_workers_before_it_writes() -> None:
    alone, first, second = (Norms().double() for _ in range(3))
    reestimate(alone, batches())
    others = iter(collect(second, batches()[1:]).sums.values())

    def add_others(value: Tensor) -> None:  # what all_reduce does
        value.add_(next(others))

    reestimate(first, batches()[:1], add_others)
    assert next(others, None) is None
    for expected, got in zip(alone.buffers(), first.buffers(), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
