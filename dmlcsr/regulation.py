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

    `ensemble` is W_{n-1} (W_0 = the student at the start of CSR), `student` w_n, n = 1, 2, ...; so W_n is the
    plain mean of n + 1 students. Averaged in float64 and kept in the ensemble's dtype; what is not floating point
    (counters) is the student's. Raises ValueError for n < 1 or other keys or shapes.
    """
    if n < 1:
        raise ValueError(f"ensembles count from n = 1, got {n}")
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

    `teacher_logits` (B, C, h, w) are upsampled (bilinear, align_corners) where their size differs from `label`
    (B, H, W) uint8. On ignored pixels (255) the hard part says background; the losses ignore them. float32 at
    least. Raises ValueError for a weight outside 0..1.
    """
    if not 0 <= label_weight <= 1:
        raise ValueError(f"the weight of the hard label must be in 0..1, got {label_weight}")
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
    """Targets of the three tasks from the teacher's logits; a task that the teacher lacks (None) stays hard."""
    labels = (label, *edge_targets(label, edge_radius))
    pairs = zip(teacher, labels, strict=True)
    return DistillationTargets(*(t if t is None else distillation_target(t, y, label_weight) for t, y in pairs))


class BatchNormStatistics:
    """Gathers new running statistics for every batch norm of a model, to be merged over workers.

    The new mean and variance are the averages, weighted by batch size, of the batches' means and unbiased
    variances. Usage: `with statistics.collect(): model(batch) ...`, sum every tensor of `sums` over the workers
    (all_reduce), then `write()`. Norms without running statistics are left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._norms = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }
        self.sums: dict[str, Tensor] = {}
        """float64 sums per norm, `<name>.mean` (C,), `<name>.var` (C,) and `<name>.weight` (); live, on the device."""
        for name, norm in self._norms.items():
            mean = _statistic(norm.running_mean)
            for key, shape in ((f"{name}.mean", mean.shape), (f"{name}.var", mean.shape), (f"{name}.weight", ())):
                self.sums[key] = torch.zeros(shape, dtype=torch.float64, device=mean.device)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Train mode without gradients; each forward pass counts its batch. The model is as before afterwards."""
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
        """While inside, each forward pass of `norm` adds its batch's statistics to the sums.

        With momentum 1 the running statistics of a forward pass in train mode are those of the batch, so torch
        itself computes them, also in a SyncBatchNorm.
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
        """Puts the averages into the running statistics. Raises ValueError if a norm has seen no batch."""
        unseen = [name for name in self._norms if self.sums[f"{name}.weight"].item() == 0]
        if unseen:
            raise ValueError(f"no batch has passed through {len(unseen)} batch norms, among them {unseen[:3]}")
        for name, norm in self._norms.items():
            weight = self.sums[f"{name}.weight"]
            _statistic(norm.running_mean).copy_(self.sums[f"{name}.mean"] / weight)
            _statistic(norm.running_var).copy_(self.sums[f"{name}.var"] / weight)


def reestimate(model: nn.Module, images: Iterable[Tensor], reduce: Callable[[Tensor], None] | None = None) -> None:
    """Fresh running statistics of all batch norms from one pass over `images`, normalised (B, 3, H, W) batches.

    `reduce` sums a tensor over all workers in place. Raises ValueError if there are no images.
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
