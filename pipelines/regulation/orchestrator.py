"""The orchestrator: one actor per run that owns self-regulation for all its trials (docs/method.md, section 6).

It decides, and holds no weights: they are averaged in a task, re-estimated and scored by the trial's own workers, and
travel as safetensors on storage. Everything it knows is in the ledger, and every method gives the same answer when it
is repeated; so it may die at any moment, and is restarted by Ray.
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
"""Ensembles that a soup is tried of."""
MAX_AVERAGES = 4
"""Averages that are made at once; other questions are answered meanwhile."""
PATIENCE_SECONDS = 600.0
"""How long an orchestrator waits for a driver to come back."""


class TrialRef(NamedTuple):
    """A trial: the run whose orchestrator it reports to, and its name there."""

    run: str
    trial: str

    @property
    def lines_name(self) -> str:
        """What its log lines are named by; empty for the only trial of a run."""
        return "" if self.trial == TRAIN else f"trial {self.trial}"


TRAIN = "train"


def train_trial_ref(run: str) -> TrialRef:
    """The only trial of a `train`."""
    return TrialRef(run, TRAIN)


class Orchestrator:
    """The state machine of all trials of a run; runs as a Ray actor, tested as a plain object."""

    def __init__(self, run: str, patience: float = PATIENCE_SECONDS, soup: Mapping[str, Any] | None = None) -> None:
        """`soup`: `settings` of `soups.cook`, where trials share. Raises UserError where the ledger cannot be read."""
        console.forward_logs_to_driver("orchestrator")
        self.run, self.soup = run, soup
        self.ledger = Ledger(run)
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        for candidates in self.ledger.of(Candidates, SOUP) if soup is not None else ():
            if self.ledger.find(Soup, SOUP, candidates.cycle) is None:
                self._start_soup(candidates)
        if ray.is_initialized() and ray.get_runtime_context().get_actor_id():
            threading.Thread(target=self._end_without_driver, args=(patience,), daemon=True).start()

    def _end_without_driver(self, patience: float) -> None:
        """Ends the actor for good where no driver has been heard of for `patience` seconds."""
        heard, beat = time.monotonic(), -1.0
        while time.monotonic() - heard < patience:
            time.sleep(patience / 20)
            with suppress(UserError):  # storage that is away says nothing about the driver
                latest = lock.last_heartbeat(self.run)
                if latest != beat:  # by its own clock, which may be wrong
                    heard, beat = time.monotonic(), latest
        ray.kill(ray.get_runtime_context().current_actor)

    @contextmanager
    def _locked(self, trial: str) -> Iterator[None]:
        """One call at a time changes what is known of a trial."""
        with waiting(f"another call of trial {trial}", level=logging.NOTSET):
            self._locks[trial].acquire()
        try:
            yield
        finally:
            self._locks[trial].release()

    def register(self, trial: Trial) -> None:
        """A trial begins, or begins again. Raises UserError where it was begun as another one."""
        if self.ledger.write_once(trial) != trial:
            raise UserError(f"trial {trial.trial} of {self.run} was begun with another network, taxonomy or cycles")

    @ray.method(concurrency_group="averages")
    def submit_student(self, student: Student) -> Ensemble | Average:
        """A student is there: its average W_n, or the published ensemble where the cycle is already over.

        Averages once. Raises UserError for an unknown trial, a cycle out of order and weights that do not fit.
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
            raise UserError(f"{student.trial} is no trial of {self.run}")
        published = len(self.ledger.of(Ensemble, student.trial))
        if student.cycle > min(published, trial.num_cycles):
            raise UserError(f"{student.trial} reports cycle {student.cycle}, but cycle {published} comes next")

    def _averaged(self, student: Student) -> Average:
        trial, cycle = student.trial, student.cycle
        known = self.ledger.find(Average, trial, cycle)
        if known is not None:
            return known
        # After a kill between the two records the average is made again, of the student that was kept.
        student = self.ledger.find(Student, trial, cycle) or student
        earlier = self.ledger.find(Ensemble, trial, cycle - 1)
        assert earlier is not None
        prefix = RunPaths(self.run).weights(trial, cycle, "average")
        weights = get_result(
            tasks.average.remote(earlier.weights, student.weights, cycle, prefix),
            f"the task that averages the weights of cycle {cycle}",
        )
        self.ledger.write_once(student)  # not before: one that cannot be averaged is no student of this trial
        return self.ledger.write_once(Average(trial=trial, cycle=cycle, weights=weights))

    def publish(self, trial: str, cycle: int, weights: WeightsReference, val_mean_f1: float) -> Ensemble:
        """The re-estimated and validated ensemble of a cycle; repeated, the one that was published first.

        Raises UserError where the cycle has no average.
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
        self._try_soup(cycle)
        return published

    def _try_soup(self, cycle: int) -> None:
        """Begins the soup of a cycle, unless it was begun; at least two trials must have an ensemble by now."""
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
        """In a thread: no trial waits for it."""
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
        except Exception:  # whatever it is, the trials go on with their own teachers
            logger.exception("the soup of cycle %d of %s failed", candidates.cycle, self.run)

    def teacher(self, trial: str, cycle: int) -> Ensemble | Soup:
        """Who teaches a cycle: the trial's own ensemble of the one before, or a soup that scores higher.

        The first answer remains. Raises UserError where the cycle before has no ensemble.
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
        """The published ensemble of a cycle. Raises UserError where there is none."""
        found = self.ledger.find(Ensemble, trial, cycle)
        if found is None:
            raise UserError(f"{trial} of {self.run} has no ensemble of cycle {cycle}")
        return found

    def finish_trial(self, record: TrialEnd) -> None:
        """A trial is over."""
        self.ledger.write_once(record)

    def status(self) -> dict[str, Any]:
        """`Ledger.summary` without the lineage, which would take longer to send than all the rest to find."""
        return self.ledger.summary(with_lineage=False)


ACTOR = ray.remote(concurrency_groups={"averages": MAX_AVERAGES})(Orchestrator)  # type: ignore[call-overload]


def actor_name(run: str) -> str:
    """The actor's name: one run has one orchestrator."""
    return f"orchestrator-{hashlib.sha256(run.encode()).hexdigest()[:16]}"


@contextmanager
def orchestrator_actor(run: str, soup: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """The run's orchestrator for the time of a `with` block: the one that lives, or a new one that reads the ledger.

    `soup`: `settings` of `soups.cook`, where the trials of the run share.
    It is detached, so that it outlives a driver that is killed, for the next one to adopt.
    """
    Ledger(run)  # one that cannot be read is told here, in one sentence
    handle = ACTOR.options(
        name=actor_name(run),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=16,
    ).remote(run, soup=soup)
    try:
        yield handle
    finally:
        ray.kill(handle)


def connect(run: str) -> Any:
    """The orchestrator of a run whose driver has started it."""
    return ray.get_actor(actor_name(run), NAMESPACE)
