"""The worker's side of self-regulation: what happens between two cycles (docs/method.md, section 6).

Report the student -> receive the average -> re-estimate its BatchNorm statistics over this worker's share of the
training rows, summed over all workers -> score it -> publish. Repeated after a kill, each step finds what it did.
"""

import logging
import time
from collections.abc import Callable, Iterable

import torch
import torch.distributed
from ray.train.collective import barrier, broadcast_from_rank_zero
from torch import Tensor

from dmlcsr.model import DMLCSR
from dmlcsr.regulation import reestimate
from dmlcsr.weights import ModelCard
from pipelines import averaging, orchestrator, tasks
from pipelines.ledger import Average, Ensemble, Soup, Student, Weights
from pipelines.orchestrator import Place
from pipelines.teachers import Teacher, frozen
from pipelines.training_config import TrainConfig

logger = logging.getLogger(__name__)


class Cycles:
    """One worker's part in the cycles of its trial."""

    def __init__(self, config: TrainConfig, place: Place, rank: int, card: ModelCard, device: torch.device) -> None:
        self.config, self.place, self.rank, self.card, self.device = config, place, rank, card, device
        self.trial = place.trial
        self.orchestrator = orchestrator.connect(place.run)

    def boundary(self, epoch: int) -> int | None:
        """The cycle that ends where `epoch` epochs are done, 0 with the warm phase; None inside of one."""
        cycle, rest = divmod(epoch - self.config.schedule.epochs, self.config.csr.cycle_epochs)
        return cycle if cycle >= 0 and rest == 0 else None

    def teacher(self, epoch: int) -> Teacher | None:
        """Who teaches the epoch that follows `epoch` done ones: nobody before the second cycle, nor after the last."""
        cycle = (epoch - self.config.schedule.epochs) // self.config.csr.cycle_epochs
        if not 1 <= cycle < self.config.csr.num_cycles or self.config.csr.method != "full":
            return None
        chosen: Ensemble | Soup = tasks.answer(self.orchestrator.teacher.remote(self.trial, cycle + 1))
        return Teacher(frozen(self._load(chosen.weights), self.device), self.card.preprocessing, 1 / (cycle + 1))

    def _load(self, weights: Weights) -> DMLCSR:
        network = DMLCSR(self.card.architecture)
        network.load_state_dict(averaging.read_weights(weights))
        return network

    def end(
        self,
        cycle: int,
        student: DMLCSR,
        score: float,
        images: Iterable[Tensor],
        validate: Callable[[DMLCSR], float],
    ) -> None:
        """Ends a cycle; all ranks call it. `images` are this worker's normalised batches of one epoch."""
        begin = time.monotonic()
        step = broadcast_from_rank_zero(self._report(cycle, student, score) if self.rank == 0 else None)
        if not isinstance(step, Average):
            return
        network = self._load(step.weights).to(self.device)
        pass_begin = time.monotonic()
        reestimate(network, images, _sum_over_workers)
        pass_seconds = time.monotonic() - pass_begin
        ensemble_score = validate(network)
        if self.rank == 0:
            stem = orchestrator.weights_stem(*self.place, cycle, "ensemble")
            weights = averaging.write_weights(stem, network.state_dict())
            tasks.answer(self.orchestrator.publish.remote(self.trial, cycle, weights, ensemble_score))
            scores = 100 * score, 100 * ensemble_score
            text = "cycle %d/%d done: validation mean F1 %.2f %% of the student, %.2f %% of the ensemble; "
            text += "it took %.1f s, of which %.1f s for the pass over the training rows"
            seconds = time.monotonic() - begin, pass_seconds
            logger.info(text, cycle, self.config.csr.num_cycles, *scores, *seconds)
        barrier()  # no rank asks for a teacher that is not published yet

    def _report(self, cycle: int, student: DMLCSR, score: float) -> Ensemble | Average:
        stem = orchestrator.weights_stem(*self.place, cycle, "student")
        weights = averaging.write_weights(stem, student.state_dict())
        record = Student(trial=self.trial, cycle=cycle, weights=weights, val_mean_f1=score)
        step: Ensemble | Average = tasks.answer(self.orchestrator.report.remote(record))
        return step


def _sum_over_workers(value: Tensor) -> None:
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
