"""The orchestrator: one actor per run that owns self-regulation for all its trials (docs/method.md, section 6).

The actor only makes decisions. A task averages the weights, the trial's own workers re-estimate BatchNorm and score the
result, and all weights are exchanged as safetensors files on storage. The ledger holds the actor's whole state, and
every method returns the same result when it is repeated. So the actor may die at any moment; Ray restarts it.
"""

import hashlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import ray

from pipelines.errors import UserError
from pipelines.models.weights_reference import WeightsReference
from pipelines.regulation import tasks
from pipelines.regulation.ledger import (
    SOUP,
    Average,
    Candidates,
    Ensemble,
    Ledger,
    Soup,
    Student,
    TeacherChoice,
    Trial,
    TrialEnd,
    blend_shares,
)
from pipelines.run import console, lock
from pipelines.run.paths import RunPaths
from pipelines.run.ray_calls import get_result
from pipelines.run.waiting import waiting

logger = logging.getLogger(__name__)
NAMESPACE = "dmlcsr"
MAX_CANDIDATES = 4
"""Number of ensembles, the best ones, that a soup may contain. Each one costs a pass over the validation split."""
MAX_AVERAGES = 4
"""Number of averages that are computed at the same time. They have their own threads, so other calls do not wait."""
PATIENCE_SECONDS = 600.0
"""Seconds without a heartbeat of a driver after which the orchestrator ends."""


class TrialRef(NamedTuple):
    """A trial: the run whose orchestrator it uses, and its name in that run."""

    run: str
    trial: str

    @property
    def lines_name(self) -> str:
        """The name of the trial in log lines; empty for the only trial of a run."""
        return "" if self.trial == TRAIN else f"trial {self.trial}"


TRAIN = "train"
"""Name of the only trial of a `train`."""


def train_trial_ref(run: str) -> TrialRef:
    """The only trial of a `train`."""
    return TrialRef(run, TRAIN)


class Orchestrator:
    """The state machine of all trials of a run. It runs as a Ray actor; tests use it as a plain object."""

    def __init__(self, run: str, patience: float = PATIENCE_SECONDS, soup: Mapping[str, Any] | None = None) -> None:
        """Reads the ledger. `soup`: the `settings` of `soups.make_soup`, or None if the trials share no soups.

        Raises UserError if the ledger cannot be read.
        """
        console.forward_logs_to_driver("orchestrator")
        self.run = run
        self.soup: Mapping[str, Any] | None = None
        self.ledger = Ledger(run)
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self.set_soup(soup)
        if ray.is_initialized() and ray.get_runtime_context().get_actor_id():
            threading.Thread(target=self._end_without_driver, args=(patience,), daemon=True).start()

    def set_soup(self, soup: Mapping[str, Any] | None) -> None:
        """Takes the settings of soups of the present driver, which may differ from those of the driver before.

        Starts the soups that were begun and are not made.
        """
        if soup == self.soup:
            return
        self.soup = soup
        for candidates in self.ledger.of(Candidates, SOUP) if soup is not None else ():
            if self.ledger.find(Soup, SOUP, candidates.cycle) is None:
                self._start_soup(candidates)

    def _end_without_driver(self, patience: float) -> None:
        """Ends the actor permanently if no driver has written a heartbeat for `patience` seconds."""
        heard, beat = time.monotonic(), -1.0
        while time.monotonic() - heard < patience:
            time.sleep(patience / 20)
            with suppress(UserError):  # if storage is unreachable, the driver may still live
                latest = lock.last_heartbeat(self.run)
                if latest != beat:  # only compared for equality: the driver's clock may be wrong
                    heard, beat = time.monotonic(), latest
        ray.kill(ray.get_runtime_context().current_actor)

    @contextmanager
    def _locked(self, trial: str) -> Iterator[None]:
        """Holds the lock of a trial, so that one call at a time changes its records."""
        with waiting(f"another call of trial {trial}", level=logging.NOTSET):
            self._locks[trial].acquire()
        try:
            yield
        finally:
            self._locks[trial].release()

    def register(self, trial: Trial) -> None:
        """Records the begin of a trial. Raises UserError if it has begun with another network, taxonomy or cycles."""
        if self.ledger.write_once(trial) != trial:
            raise UserError(f"trial {trial.trial} of {self.run} was begun with another network, taxonomy or cycles")

    @ray.method(concurrency_group="averages")
    def submit_student(self, student: Student) -> Ensemble | Average:
        """Averages a student and returns W_n, or the published ensemble if the cycle is already over.

        A repeated call returns the first average. Raises UserError for an unknown trial, a cycle out of order and
        weights of another network.
        """
        with self._locked(student.trial):
            self._require_next(student)
            published = self.ledger.find(Ensemble, student.trial, student.cycle)
            if published is not None:
                return published
            if student.cycle:
                return self._averaged(student)
            first = self.ledger.write_once(student)
            return self.ledger.write_once(Ensemble(**dict(first), coefficients={f"{student.trial}/0": 1.0}))

    def _require_next(self, student: Student) -> None:
        trial = self.ledger.find(Trial, student.trial)
        if trial is None:
            raise UserError(f"{student.trial} is not a trial of {self.run}")
        published = len(self.ledger.of(Ensemble, student.trial))
        if student.cycle > min(published, trial.num_cycles):
            raise UserError(f"{student.trial} reports cycle {student.cycle}, but cycle {published} comes next")

    def _averaged(self, student: Student) -> Average:
        trial, cycle = student.trial, student.cycle
        known = self.ledger.find(Average, trial, cycle)
        if known is not None:
            return known
        # If the actor was killed between the two writes below, the recorded student is averaged again.
        student = self.ledger.find(Student, trial, cycle) or student
        earlier = self.ledger.find(Ensemble, trial, cycle - 1)
        assert earlier is not None
        prefix = RunPaths(self.run).weights(trial, cycle, "average")
        place = tasks.away_from_head(ray.nodes() if ray.is_initialized() else [])
        weights = get_result(
            tasks.average.options(scheduling_strategy=place).remote(earlier.weights, student.weights, cycle, prefix),
            f"the task that averages the weights of cycle {cycle}",
        )
        self.ledger.write_once(student)  # after the average, so that unfit weights are never recorded
        return self.ledger.write_once(Average(trial=trial, cycle=cycle, weights=weights))

    def publish(self, trial: str, cycle: int, weights: WeightsReference, val_mean_f1: float) -> Ensemble:
        """Records the re-estimated and validated ensemble of a cycle. A repeated call returns the first record.

        Raises UserError if the cycle has no average.
        """
        with self._locked(trial):
            if self.ledger.find(Average, trial, cycle) is None:
                raise UserError(f"{trial} publishes cycle {cycle}, which has no average")
            earlier = self.ledger.find(Ensemble, trial, cycle - 1)
            assert earlier is not None
            shares = blend_shares(earlier.coefficients, {f"{trial}/{cycle}": 1.0}, cycle)
            published = self.ledger.write_once(
                Ensemble(trial=trial, cycle=cycle, weights=weights, val_mean_f1=val_mean_f1, coefficients=shares)
            )
            self.ledger.write_copy(trial)
        self._try_soup(cycle)
        return published

    def _try_soup(self, cycle: int) -> None:
        """Starts the soup of a cycle if it has not started and at least two trials have finished a cycle."""
        if self.soup is None:
            return
        with self._locked(SOUP):
            trials = (self.ledger.of(Ensemble, trial.trial) for trial in self.ledger.trials())
            present = [ensembles[-1] for ensembles in trials if len(ensembles) > 1]
            if len(present) < 2 or self.ledger.find(Candidates, SOUP, cycle):
                return
            best = sorted(present, key=lambda ensemble: -ensemble.val_mean_f1)[:MAX_CANDIDATES]
            names = [(ensemble.trial, ensemble.cycle) for ensemble in best]
            self._start_soup(self.ledger.write_once(Candidates(trial=SOUP, cycle=cycle, ensembles=names)))

    def _start_soup(self, candidates: Candidates) -> None:
        """Starts a thread that makes the soup, so that no trial waits for it."""
        threading.Thread(target=self._make_soup, args=(candidates,), daemon=True).start()

    def _make_soup(self, candidates: Candidates) -> None:
        assert self.soup is not None
        ensembles = [self.ensemble(*name) for name in candidates.ensembles]
        prefix = RunPaths(self.run).weights(SOUP, candidates.cycle, "soup")
        what = f"a free CPU, or GPU, and the task that makes the soup of cycle {candidates.cycle}"
        task = tasks.make_soup.options(num_gpus=float(self.soup["config"]["workers"]["use_gpu"]))
        try:
            self.ledger.write_once(
                get_result(task.remote(self.soup, ensembles, candidates.cycle, prefix), what, logging.INFO)
            )
        except Exception:  # without the soup the trials continue with their own teachers
            logger.exception("the soup of cycle %d of %s failed", candidates.cycle, self.run)

    def teacher(self, trial: str, cycle: int) -> Ensemble | Soup:
        """The teacher of a cycle: the trial's ensemble of the previous cycle, or a soup that scores higher.

        A repeated call returns the first choice. Raises UserError if the previous cycle has no ensemble.
        """
        with self._locked(trial):
            known = self.ledger.find(TeacherChoice, trial, cycle)
            if known is None:
                offered: list[Ensemble | Soup] = [self.ensemble(trial, cycle - 1), *self.ledger.of(Soup, SOUP)]
                best = max(offered, key=lambda one: one.val_mean_f1)
                soup = best.cycle if isinstance(best, Soup) else None
                known = self.ledger.write_once(TeacherChoice(trial=trial, cycle=cycle, soup=soup))
            return self.ledger.taught_by(known)

    def ensemble(self, trial: str, cycle: int) -> Ensemble:
        """The published ensemble of a cycle. Raises UserError if it does not exist."""
        found = self.ledger.find(Ensemble, trial, cycle)
        if found is None:
            raise UserError(f"{trial} of {self.run} has no ensemble of cycle {cycle}")
        return found

    def finish_trial(self, record: TrialEnd) -> None:
        """Records the end of a trial."""
        with self._locked(record.trial):
            self.ledger.write_once(record)
            self.ledger.write_copy(record.trial)

    def status(self) -> dict[str, Any]:
        """`Ledger.summary` without the lineage, whose transfer would take longer than the rest of the call."""
        return self.ledger.summary(with_lineage=False)


ACTOR = ray.remote(concurrency_groups={"averages": MAX_AVERAGES})(Orchestrator)  # type: ignore[call-overload]


def actor_name(run: str) -> str:
    """The actor's name, a hash of the run's URI: a run has one orchestrator."""
    return f"orchestrator-{hashlib.sha256(run.encode()).hexdigest()[:16]}"


@contextmanager
def orchestrator_actor(run: str, soup: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """The run's orchestrator for the time of a `with` block: the living actor, or a new one that reads the ledger.

    `soup`: the `settings` of `soups.make_soup` if the trials of the run share soups. The actor is detached: it
    survives a driver that is killed, and the next driver uses it.
    """
    Ledger(run)  # a damaged ledger raises its UserError here and not inside the actor
    handle = ACTOR.options(
        name=actor_name(run),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=16,  # calls that wait for the lock of a trial must not block other trials
    ).remote(run, soup=soup)
    try:
        get_result(handle.set_soup.remote(soup), "the orchestrator")  # it may be that of an earlier driver
        yield handle
    finally:
        ray.kill(handle)


def connect(run: str) -> Any:
    """The handle of a run's orchestrator, which the run's driver has started."""
    return ray.get_actor(actor_name(run), NAMESPACE)
