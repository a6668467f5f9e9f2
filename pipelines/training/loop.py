"""The training loop of each worker: epochs of steps, each followed by a full validation and a checkpoint.

On CUDA the loop uses bf16 autocast, nccl, and what the section `gpu` of the configuration says (`parallel.py`). CI has
no GPU: its tests run this path on pretended tensors, `make test-gpu` on real ones.
"""

import logging
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train import CheckpointConsistencyMode
from torch import Tensor, nn

from dmlcsr.losses import LossTerms, dml_loss
from dmlcsr.model import DMLCSR
from dmlcsr.predict import normalize
from dmlcsr.schedule import learning_rate
from pipelines.config.training import TrainConfig
from pipelines.data import row_groups
from pipelines.data.bad_rows import BadRowLimit
from pipelines.data.dataset import Manifest
from pipelines.data.decode_tasks import Columns
from pipelines.data.ordered import OrderedRows
from pipelines.models import checkpoint, scoring
from pipelines.models.setup import (
    build_network,
    build_optimizer,
    initial_run_checkpoint,
    loss_weights,
    model_card,
    train_stream,
)
from pipelines.models.teachers import configured_teacher
from pipelines.regulation.cycles import Cycles
from pipelines.regulation.orchestrator import TrialRef
from pipelines.run import console, phases, run_directory
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.paths import RunPaths
from pipelines.run.progress import Progress
from pipelines.run.ray_calls import original_errors
from pipelines.run.run_directory import EpochMetrics
from pipelines.run.waiting import told_waits, waiting
from pipelines.training import cores, parallel
from pipelines.training.finite import FiniteSteps

logger = logging.getLogger(__name__)
RANKS_BOUND = "limit: the process group's time-out, 1800 s"
"""Text for log lines: the limit of a wait for other ranks in a collective operation of PyTorch."""


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """The function that Ray Train runs on each worker.

    `settings` holds `config` (TrainConfig) and `manifest` (Manifest) as JSON-able dicts, `started` (the Unix time at
    which the command began) and `trial_ref` (the trial that is trained).

    Returns `{"history"}`, or `{"history", "failure"}` with an error sentence if the loss is no longer finite.
    """
    config, trial_ref = TrainConfig.model_validate(settings["config"]), TrialRef(*settings["trial_ref"])
    rank = f" rank {ray.train.get_context().get_world_rank()}" if config.workers.num_workers > 1 else ""
    console.forward_logs_to_driver(f"{trial_ref.lines_name}{rank}".strip())
    with original_errors():
        worker = RankTrainer(config, Manifest.model_validate(settings["manifest"]), trial_ref)
        return worker.run(settings["started"])


def _sum_over_ranks(value: Tensor) -> None:
    """Sums a tensor over all ranks, in place; a rank that is slow, or gone, shows in the log."""
    with waiting("all ranks, to sum up the validation", RANKS_BOUND, logging.NOTSET):
        scoring.sum_over_workers(value)


def _not_finite(epoch: int, step: int) -> str:
    return f"the loss or its gradient is not finite in epoch {epoch + 1}, step {step + 1}"


class RankTrainer:
    """The network, the data and the training state of one rank."""

    def __init__(self, config: TrainConfig, manifest: Manifest, trial_ref: TrialRef) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.config = config
        _, self.num_decode_tasks = config.workers.at_least()
        self.taxonomy = manifest.taxonomy
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(cores.num_threads(config.workers))
        parallel.set_up_device(config.gpu)
        self.network = network = parallel.on_device(build_network(config, self.taxonomy), config, self.device)
        self.optimizer = build_optimizer(network, config.optimizer)
        self.finite_steps = FiniteSteps(self.optimizer, self.device)
        self.history: list[EpochMetrics] = []
        self._resume()
        self.ddp_network = parallel.distributed(network, config, self.device)
        self.card = model_card(config, self.taxonomy)
        self.loss_weights = loss_weights(config.loss)
        self.val_split = row_groups.open_split(config.data, manifest, "val")
        training = train_stream(config, manifest, self.rank, self.world_size)
        self.train_stream = replace(training, records=RunPaths(config.out).bad_rows("train"))
        self.limits = [
            BadRowLimit(config.out, config.data, "train", training.source.num_rows, config.max_bad_fraction),
            BadRowLimit(config.out, config.data, "val", self.val_split.num_rows, config.max_bad_fraction),
        ]
        self.cycles = Cycles(config, trial_ref, self.rank, self.card, self.device) if config.averages_students else None
        self.teacher = configured_teacher(config, self.device)

    @property
    def best_f1(self) -> float | None:
        """The highest validation mean F1 (0 to 1) of the finished epochs, or None."""
        return max((record[VAL_MEAN_F1] for record in self.history), default=None)

    def _resume(self) -> None:
        latest = ray.train.get_checkpoint() or initial_run_checkpoint(self.config)
        if latest is not None:
            with latest.as_directory() as folder:
                self.history = checkpoint.load(Path(folder), self.network, self.optimizer)

    def run(self, started: float) -> dict[str, Any]:
        """Trains all epochs that are not done yet. `started`: Unix time at which the command began."""
        first, last = len(self.history), self.config.num_epochs
        self._enter("waiting for the first batch", self._cycle_of(first))
        if first == 0:
            self.try_scoring()
        elif self.rank == 0:
            self.check_bad_rows()  # those of an earlier attempt
            run_directory.write_metrics(self.config.out, self.history)  # a killed attempt may not have written them
        batches = self._log_first_batch(self.train_stream.batches(first, last, self.num_decode_tasks), started)
        for epoch in range(first, last):
            self.finish_cycle_if_due(epoch)
            if epoch == first:
                self._enter("waiting for the first batch", self._cycle_of(epoch))
            elif self._cycle_of(epoch) != self._cycle_of(epoch - 1):
                self._enter("training", self._cycle_of(epoch))
            record, failure = self.train_epoch(epoch, batches)
            if failure is not None:
                return {"history": self.history, "failure": failure}
            self.share_buffers()
            self.history.append({"epoch": epoch + 1, "time": time.time(), **record, **self.validate()})
            self.commit_epoch()
            self.check_bad_rows()
        self.finish_cycle_if_due(last)
        return {"history": self.history}

    def check_bad_rows(self) -> None:
        """Counts the rows that cannot be used. Raises UserError if they are more than `max_bad_fraction`.

        It counts after the epoch is committed, so that the same command with a larger fraction repeats no epoch.
        """
        if self.rank == 0:
            for limit in self.limits:
                limit.check()

    def finish_cycle_if_due(self, epoch: int) -> None:
        """Finishes the cycle that ends after `epoch` epochs, if there is one, and loads the next teacher.

        After a restart this runs again before the first epoch; finished steps are found in the ledger.
        """
        if self.cycles is None:
            return
        cycle = self.cycles.cycle_ending_after(epoch)
        if cycle is not None:
            metrics, images = self.history[-1], self._pixels_of(epoch)
            self.cycles.finish_cycle(cycle, self.network, metrics, images, self.validate)
        if cycle is not None or self.teacher is None:
            self.teacher = self.cycles.teacher(epoch)

    def _pixels_of(self, epoch: int) -> Iterator[Tensor]:
        """Yields this worker's normalized training images of one epoch."""
        for batch in self.train_stream.batches(epoch, epoch + 1, self.num_decode_tasks):
            yield normalize(batch["image"], self.card.preprocessing)

    def _log_first_batch(self, batches: Iterator[dict[str, Tensor]], started: float) -> Iterator[dict[str, Tensor]]:
        """Yields the batches unchanged. Logs the time until the first one and each long wait for one."""
        for number, batch in enumerate(told_waits(batches, "the next training batch", self._decode_bound, self._level)):
            if number == 0 and self.rank == 0:
                logger.info("first batch %.1f s after the start of the command", time.time() - started)
                self._enter("training", self._cycle_of(len(self.history)))
            yield batch

    def _cycle_of(self, epoch: int) -> int | None:
        """The cycle of the next epoch, given `epoch` finished ones. 0: the initial phase; None: no cycles."""
        csr = self.config.csr
        cycle = (epoch - self.config.schedule.epochs) // csr.cycle_epochs + 1
        return min(max(0, cycle), csr.num_cycles) if csr.num_cycles else None

    def _enter(self, kind: phases.Kind, cycle: int | None) -> None:
        if self.rank == 0:
            phases.enter(self.config.out, kind, cycle)

    @property
    def _level(self) -> int:
        """The level of log lines before rare waits: INFO on rank 0, DEBUG on the others, to avoid repetition."""
        return logging.INFO if self.rank == 0 else logging.DEBUG

    @property
    def _decode_bound(self) -> str:
        return f"no limit; needs a free CPU, uses up to {self.num_decode_tasks} for each worker (workers.decode_tasks)"

    def train_epoch(self, epoch: int, batches: Iterator[dict[str, Tensor]]) -> tuple[dict[str, float], str | None]:
        """Trains one epoch. Returns its metrics and None, or {} and an error sentence if the loss is not finite.

        Metrics: mean loss terms, last learning rate, images per second (all workers) and seconds.
        """
        self.ddp_network.train()
        accumulate = self.config.optimizer.accumulation_steps
        num_steps = self.train_stream.num_batches // accumulate
        sums = torch.zeros(len(LossTerms._fields), device=self.device)
        progress = Progress(epoch, self.config.num_epochs, num_steps, self.rank, self.best_f1)
        images_per_step = accumulate * self.train_stream.batch_size * self.world_size
        for step in range(num_steps):
            rate = self._set_rate(epoch + step / num_steps)
            terms = self.step(islice(batches, accumulate))
            if step and self.finite_steps.failed(steps_ago=1):
                return {}, _not_finite(epoch, step - 1)
            sums += torch.stack(terms)
            progress.log(step + 1, images_per_step, terms.total)
        if self.finite_steps.failed():
            return {}, _not_finite(epoch, num_steps - 1)
        means = dict(zip(LossTerms._fields, (sums / num_steps).tolist(), strict=True))
        speed = num_steps * images_per_step / progress.seconds
        return {f"loss_{name}": value for name, value in means.items()} | {
            "lr": rate,
            "images_per_second": speed,
            "train_seconds": progress.seconds,
        }, None

    def step(self, batches: Iterator[dict[str, Tensor]]) -> LossTerms:
        """Makes one optimizer step over its micro-batches. Returns the mean loss terms.

        If the gradient is not finite, neither this step nor a later one changes the weights. After DDP's reduction
        every rank has the same gradient, so all ranks decide alike. The host does not wait for the device. Raises
        RuntimeError if there are too few micro-batches.
        """
        accumulate = self.config.optimizer.accumulation_steps
        summed = torch.zeros(len(LossTerms._fields), device=self.device)
        number = 0
        for number, batch in enumerate(batches, start=1):
            with self._reduces_gradients(number == accumulate):
                terms = self.loss(batch)
                (terms.total / accumulate).backward()
            summed += torch.stack([term.detach().float() for term in terms]) / accumulate
        if number != accumulate:
            raise RuntimeError("the stream ended in the middle of an epoch")
        limit = self.config.optimizer.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        self.finite_steps.step(norm)
        self.optimizer.zero_grad(set_to_none=True)
        return LossTerms(*summed)

    def loss(self, batch: dict[str, Tensor]) -> LossTerms:
        """The loss terms of `image` (B, S, S, 3) and `label` (B, S, S), both uint8 on the training device."""
        pixels = normalize(batch["image"], self.card.preprocessing)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.ddp_network(pixels)
            radius = self.config.loss.edge_radius
            targets = self.teacher.targets(batch, radius) if self.teacher else None
        return dml_loss(logits, batch["label"], self.loss_weights, edge_radius=radius, targets=targets)

    def _reduces_gradients(self, last: bool) -> Any:
        """A context that reduces the gradients across workers only for the last micro-batch of a step."""
        return nullcontext() if last or self.world_size == 1 else self.ddp_network.no_sync()  # type: ignore[operator]

    def _set_rate(self, epoch: float) -> float:
        schedule = self.config.schedule
        rate = learning_rate(
            epoch,
            lr=self.config.optimizer.lr,
            warmup_epochs=schedule.warmup_epochs,
            csr_start=schedule.epochs,
            cycle_epochs=self.config.csr.cycle_epochs,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def share_buffers(self) -> None:
        """Copies the BatchNorm statistics of rank 0 to every rank, because rank 0 writes the checkpoint."""
        if self.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validate(self, network: DMLCSR | None = None) -> EpochMetrics:
        """The metrics of the student, or of `network`, on the validation split at label resolution.

        Each row is counted on exactly one worker.
        """
        decoded = self._validation_rows().batches(self.train_stream.batch_size, self.num_decode_tasks)
        batches = told_waits(decoded, "the next validation batch", self._decode_bound, logging.DEBUG)
        return self._scored(network or self.network, batches)

    def try_scoring(self) -> None:
        """Scores a batch before the first epoch, so that an error in scoring shows now and not after an epoch.

        The rows are decoded in this process: to start and end tasks for them would delay the first training batch.
        """
        size = self.train_stream.batch_size
        first = islice(self._validation_rows().chunks(), 1)
        self._scored(self.network, ({name: values[:size] for name, values in chunk.items()} for chunk in first))

    def _validation_rows(self) -> OrderedRows:
        """The rows of the validation split that this worker scores."""
        return OrderedRows(
            source=self.val_split,
            preprocessing=self.card.preprocessing,
            rank=self.rank,
            world_size=self.world_size,
            records=RunPaths(self.config.out).bad_rows("val"),
        )

    def _scored(self, network: DMLCSR, batches: Iterator[Columns]) -> EpochMetrics:
        return scoring.validation_metrics(network, self.card, self.device, batches, _sum_over_ranks)

    def commit_epoch(self) -> None:
        """Commits the checkpoint and the metrics of the epoch. A committed epoch is never trained again."""
        latest = self.history[-1]
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if self.rank == 0:
                checkpoint.save(Path(folder), self.network, self.optimizer, self.history)
                saved = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(latest, checkpoint=saved)
        # `report` only hands the checkpoint over; the next call returns when the controller has written its snapshot.
        with waiting(f"Ray Train to commit the checkpoint of epoch {latest['epoch']}, for which all ranks must report"):
            ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)
        if self.rank == 0:
            run_directory.write_metrics(self.config.out, self.history)
            logger.info(
                "epoch %d/%d done: loss %.3f, validation mean F1 %.2f %%",
                latest["epoch"],
                self.config.num_epochs,
                latest["loss_total"],
                100 * latest[VAL_MEAN_F1],
            )
