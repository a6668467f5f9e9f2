"""The worker's side of self-regulation: the steps between two cycles (docs/method.md, section 6).

1. Rank 0 submits the student to the orchestrator and receives the average.
2. All workers re-estimate the BatchNorm statistics of the average, each over its share of the training rows.
3. All workers validate it, and rank 0 publishes it.

If a worker dies, the steps are repeated. A step that was already done returns the record of the first time.
"""

import logging
import time
from collections.abc import Callable, Iterable

import torch
from ray.train.collective import barrier, broadcast_from_rank_zero
from torch import Tensor

from dmlcsr.model import DMLCSR
from dmlcsr.weights import ModelCard
from pipelines.config.training import TrainConfig
from pipelines.models import scoring, weight_files
from pipelines.models.teachers import TeacherNetwork, freeze
from pipelines.models.weights_reference import WeightsReference
from pipelines.regulation import orchestrator
from pipelines.regulation.ledger import Average, Ensemble, Soup, Student
from pipelines.regulation.orchestrator import TrialRef
from pipelines.run import phases
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.paths import RunPaths
from pipelines.run.ray_calls import get_result
from pipelines.run.run_directory import EpochMetrics
from pipelines.run.waiting import waiting

logger = logging.getLogger(__name__)
OTHERS = "limit: RAY_TRAIN_COLLECTIVE_TIMEOUT_S, by default none"
"""Text for log lines: the setting that limits a wait for other ranks."""


class Cycles:
    """One worker's part in the cycles of its trial."""

    def __init__(
        self, config: TrainConfig, trial_ref: TrialRef, rank: int, card: ModelCard, device: torch.device
    ) -> None:
        self.config, self.trial_ref, self.rank, self.card, self.device = config, trial_ref, rank, card, device
        self.trial = trial_ref.trial
        self.orchestrator = orchestrator.connect(trial_ref.run)

    def cycle_ending_after(self, epoch: int) -> int | None:
        """The number of the cycle that ends after `epoch` epochs (0: the initial phase), or None."""
        cycle, rest = divmod(epoch - self.config.schedule.epochs, self.config.csr.cycle_epochs)
        return cycle if cycle >= 0 and rest == 0 else None

    def teacher(self, epoch: int) -> TeacherNetwork | None:
        """The teacher of the next epoch, given `epoch` finished ones.

        None in the initial phase, in cycle 1 and after the last cycle.
        """
        cycle = (epoch - self.config.schedule.epochs) // self.config.csr.cycle_epochs
        if not 1 <= cycle < self.config.csr.num_cycles or self.config.csr.method != "full":
            return None
        chosen: Ensemble | Soup = get_result(
            self.orchestrator.teacher.remote(self.trial, cycle + 1),
            f"the orchestrator to choose the teacher of cycle {cycle + 1}",
        )
        return TeacherNetwork(freeze(self._load(chosen.weights), self.device), self.card.preprocessing, 1 / (cycle + 1))

    def _load(self, weights: WeightsReference) -> DMLCSR:
        network = DMLCSR(self.card.architecture)
        network.load_state_dict(weight_files.read_weights(weights))
        return network

    def finish_cycle(
        self,
        cycle: int,
        student: DMLCSR,
        metrics: EpochMetrics,
        images: Iterable[Tensor],
        validate: Callable[[DMLCSR], EpochMetrics],
    ) -> None:
        """Averages the student of a cycle into the ensemble and publishes it. All ranks must call it.

        `metrics`: the student's validation metrics. `images`: this worker's normalized batches of one epoch.
        """
        begin, score = time.monotonic(), metrics[VAL_MEAN_F1]
        self._enter("averaging", cycle)
        step = self._submit_student(cycle, student, score) if self.rank == 0 else None
        with waiting(f"all ranks, to receive the average of cycle {cycle}", OTHERS):
            step = broadcast_from_rank_zero(step)
        if not isinstance(step, Average):
            return
        network = self._load(step.weights)
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._enter("re-estimating BatchNorm", cycle)
        pass_begin = time.monotonic()
        scoring.reestimate_batch_norm(network, images, reduce=scoring.sum_over_workers)
        pass_seconds = time.monotonic() - pass_begin
        self._enter("validating", cycle)
        ensemble_score = validate(network)[VAL_MEAN_F1]
        if self.rank == 0:
            prefix = RunPaths(self.trial_ref.run).weights(self.trial, cycle, "ensemble")
            weights = weight_files.write_weights(prefix, network.state_dict())
            get_result(
                self.orchestrator.publish.remote(self.trial, cycle, weights, ensemble_score),
                "the orchestrator's answer to publish",
            )
            logger.info(
                "cycle %d/%d: student F1 %.2f %%, ensemble F1 %.2f %%; %.1f s (%.1f s re-estimating BatchNorm)",
                cycle,
                self.config.csr.num_cycles,
                100 * score,
                100 * ensemble_score,
                time.monotonic() - begin,
                pass_seconds,
            )
        with waiting(f"all ranks, at the end of cycle {cycle}", OTHERS):
            barrier()  # so that no rank requests a teacher that is not published yet

    def _enter(self, kind: phases.Kind, cycle: int) -> None:
        if self.rank == 0:
            phases.enter(self.config.out, kind, cycle)

    def _submit_student(self, cycle: int, student: DMLCSR, score: float) -> Ensemble | Average:
        prefix = RunPaths(self.trial_ref.run).weights(self.trial, cycle, "student")
        weights = weight_files.write_weights(prefix, student.state_dict())
        record = Student(trial=self.trial, cycle=cycle, weights=weights, val_mean_f1=score)
        step: Ensemble | Average = get_result(
            self.orchestrator.submit_student.remote(record),
            f"the orchestrator's answer to submit_student of cycle {cycle}",
            logging.INFO if cycle else logging.DEBUG,  # the first student is its own average: no wait
        )
        return step
