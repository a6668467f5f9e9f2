"""Cyclical self-regulation (docs/method.md, section 6): self-ensemble, self-distillation, BatchNorm statistics."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dmlcsr.edges import edge_targets
from dmlcsr.losses import DistillationTargets
from dmlcsr.taxonomy import IGNORE


def update_ensemble(ensemble: Mapping[str, Tensor], student: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    """The n-th ensemble W_n = n / (n + 1) W_{n-1} + 1 / (n + 1) w_n, as a new state dict.

    `ensemble` is W_{n-1}, where W_0 is the student at the end of the initial phase; `student` is w_n, for n = 1, 2,
    ... So W_n is the plain mean of n + 1 students. The average is computed in float64 and returned in the ensemble's
    dtype. Tensors that are not floating point (counters) are copied from the student. Raises ValueError for n < 1,
    and if keys or shapes differ.
    """
    if n < 1:
        raise ValueError(f"ensembles start at n = 1, got {n}")
    if ensemble.keys() != student.keys():
        different = sorted(ensemble.keys() ^ student.keys())
        raise ValueError(f"ensemble and student differ in {len(different)} keys, among them {different[:3]}")
    result = {}
    for key, old in ensemble.items():
        new = student[key]
        if old.shape != new.shape:
            raise ValueError(f"{key} has shape {tuple(old.shape)} in the ensemble, {tuple(new.shape)} in the student")
        if old.is_floating_point():
            mean = old.detach().double().lerp(new.detach().to(old.device, torch.float64), 1 / (n + 1))
            result[key] = mean.to(old.dtype)
        else:
            result[key] = new.detach().clone()
    return result


def distillation_target(teacher_logits: Tensor, label: Tensor, label_weight: float) -> Tensor:
    """(1 - a) softmax(teacher) + a onehot(label), a = `label_weight`: (B, C, H, W) probabilities at label size.

    If `teacher_logits` (B, C, h, w) differ in size from `label` (B, H, W) uint8, they are upsampled bilinearly with
    aligned corners. At ignored pixels (255) the one-hot part is background; the losses ignore these pixels. The dtype
    is float32 or wider. Raises ValueError for a weight outside 0..1.
    """
    if not 0 <= label_weight <= 1:
        raise ValueError(f"label_weight must be within 0..1, got {label_weight}")
    with torch.no_grad(), torch.autocast(label.device.type, enabled=False):
        logits = teacher_logits.to(torch.promote_types(teacher_logits.dtype, torch.float32))
        if logits.shape[2:] != label.shape[1:]:
            logits = F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=True)
        target = logits.softmax(1).mul_(1 - label_weight)
        index = label.masked_fill(label == IGNORE, 0).long()[:, None]
        return target.scatter_add_(1, index, torch.full_like(target[:, :1], label_weight))


def distillation_targets(
    teacher: tuple[Tensor, Tensor | None, Tensor | None],
    label: Tensor,
    label_weight: float,
    *,
    edge_radius: int = 1,
) -> DistillationTargets:
    """Targets of the three tasks, computed from the teacher's logits.

    If the teacher lacks a task (None), its target is None and the task learns from the labels.
    """
    labels = (label, *edge_targets(label, edge_radius))
    pairs = zip(teacher, labels, strict=True)
    return DistillationTargets(*(t if t is None else distillation_target(t, y, label_weight) for t, y in pairs))


class BatchNormStatistics:
    """Estimates new running statistics for every BatchNorm of a model; workers can add up their sums.

    The new mean and variance are averages, weighted by batch size, of the batches' means and unbiased variances.
    Usage: run `with statistics.collect(): model(batch) ...`, sum every tensor of `sums` over the workers
    (all_reduce), then call `write()`. Norms without running statistics are skipped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._norms = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }
        self.sums: dict[str, Tensor] = {}
        """float64 sums per norm on its device: `<name>.mean` (C,), `<name>.var` (C,) and `<name>.weight` ().

        `collect` and a caller's all_reduce change them in place.
        """
        for name, norm in self._norms.items():
            mean = _statistic(norm.running_mean)
            for key, shape in ((f"{name}.mean", mean.shape), (f"{name}.var", mean.shape), (f"{name}.weight", ())):
                self.sums[key] = torch.zeros(shape, dtype=torch.float64, device=mean.device)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Puts the model into train mode without gradients, and counts the batch of each forward pass.

        On exit the model is restored to its earlier state.
        """
        training = {module: module.training for module in self._model.modules()}
        with torch.no_grad(), ExitStack() as stack:
            for name, norm in self._norms.items():
                stack.enter_context(self._counting(name, norm))
            self._model.train()
            try:
                yield
            finally:
                for module, mode in training.items():
                    module.training = mode

    @contextmanager
    def _counting(self, name: str, norm: _BatchNorm) -> Iterator[None]:
        """Adds the batch statistics of each forward pass of `norm` to the sums, during a `with` block.

        With momentum 1, a forward pass in train mode sets the running statistics to those of the batch. So torch
        computes them, in a SyncBatchNorm too.
        """
        momentum, state = norm.momentum, {k: v.clone() for k, v in norm.state_dict().items()}

        def add(_: nn.Module, inputs: tuple[Tensor, ...], __: Any) -> None:
            weight = len(inputs[0])
            self.sums[f"{name}.mean"] += weight * _statistic(norm.running_mean).double()
            self.sums[f"{name}.var"] += weight * _statistic(norm.running_var).double()
            self.sums[f"{name}.weight"] += weight

        norm.momentum = 1.0
        handle = norm.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()
            norm.momentum = momentum
            norm.load_state_dict(state)

    def write(self) -> None:
        """Writes the averages to the running statistics. Raises ValueError if a norm has seen no batch."""
        weights = torch.stack([self.sums[f"{name}.weight"] for name in self._norms]).tolist() if self._norms else []
        unseen = [name for name, weight in zip(self._norms, weights, strict=True) if weight == 0]
        if unseen:
            raise ValueError(f"no batch has passed through {len(unseen)} batch norms, among them {unseen[:3]}")
        for name, norm in self._norms.items():
            weight = self.sums[f"{name}.weight"]
            _statistic(norm.running_mean).copy_(self.sums[f"{name}.mean"] / weight)
            _statistic(norm.running_var).copy_(self.sums[f"{name}.var"] / weight)


def reestimate(model: nn.Module, images: Iterable[Tensor], reduce: Callable[[Tensor], None] | None = None) -> None:
    """Re-estimates the running statistics of all BatchNorms in one pass over `images`.

    `images` yields normalized (B, 3, H, W) batches. `reduce` sums a tensor over all workers in place. Raises ValueError
    if no batch was seen.
    """
    statistics = BatchNormStatistics(model)
    with statistics.collect():
        for batch in images:
            model(batch)
    if reduce is not None:
        for value in statistics.sums.values():
            reduce(value)
    statistics.write()


def _statistic(buffer: Tensor | None) -> Tensor:
    assert buffer is not None, "norms without running statistics are not listed"
    return buffer
