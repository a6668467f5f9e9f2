"""The orchestrator: one actor per run that owns self-regulation for all its trials (DML-CSR, section 3.3).

It decides, and holds no weights: they are averaged in a task, re-estimated and scored by the trial's own workers, and
travel as safetensors on storage. Everything it knows is in the ledger, and every method gives the same answer when it
is repeated; so it may die at any moment, and is restarted by Ray.
"""

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayTaskError

from pipelines import owner, storage
from pipelines.errors import UserError
from pipelines.ledger import Average, End, Ensemble, Ledger, Student, Trial, Weights

NAMESPACE = "dmlcsr"
PATIENCE_SECONDS = 600.0
"""How long an orchestrator waits for a driver to come back."""


class Place(NamedTuple):
    """A trial: the run whose orchestrator it reports to, and its name there."""

    run: str
    trial: str


def single(run: str) -> Place:
    """The only trial of a `train`."""
    return Place(run, "train")


def weights_uri(run: str, trial: str, cycle: int, kind: str) -> str:
    return storage.join(run, "cycles", trial, f"{cycle:03d}-{kind}.safetensors")


def averaged_in_task(ensemble: Weights, student: Weights, cycle: int, uri: str) -> Weights:
    """W_n, made by a task elsewhere: the orchestrator has no memory for weights, nor for what handles them."""
    task: Any = ray.remote(num_cpus=0, max_retries=-1)(_average)
    weights: Weights = answer(task.remote(ensemble, student, cycle, uri))
    return weights


def _average(ensemble: Weights, student: Weights, cycle: int, uri: str) -> Weights:
    from pipelines import averaging

    return averaging.average(ensemble, student, cycle, uri)


class Orchestrator:
    """The state machine of all trials of a run; runs as a Ray actor, tested as a plain object."""

    def __init__(self, run: str, patience: float = PATIENCE_SECONDS) -> None:
        """Raises UserError where the ledger cannot be read."""
        self.run = run
        self.ledger = Ledger(run)
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        if ray.is_initialized() and ray.get_runtime_context().get_actor_id():
            threading.Thread(target=self._end_without_driver, args=(patience,), daemon=True).start()

    def _end_without_driver(self, patience: float) -> None:
        """Ends the actor for good where no driver has been heard of for `patience` seconds."""
        heard = time.time()
        while time.time() - heard < patience:
            time.sleep(patience / 20)
            with suppress(UserError):  # storage that is away says nothing about the driver
                heard = max(heard, owner.last_beat(self.run))
        ray.kill(ray.get_runtime_context().current_actor)

    def register(self, trial: Trial) -> None:
        """A trial begins, or begins again. Raises UserError where it was begun as another one."""
        if self.ledger.commit(trial) != trial:
            raise UserError(f"trial {trial.trial} of {self.run} was begun with another network, taxonomy or cycles")

    def report(self, student: Student) -> Ensemble | Average:
        """A student is there: its average W_n, or the published ensemble where the cycle is already over.

        Averages once. Raises UserError for an unknown trial, a cycle out of order and weights that do not fit.
        """
        with self._locks[student.trial]:
            self._require_next(student)
            student = self.ledger.commit(student)
            published = self.ledger.find(Ensemble, student.trial, student.cycle)
            if published is not None:
                return published
            if student.cycle == 0:
                share = {f"{student.trial}/0": 1.0}
                return self.ledger.commit(Ensemble(**dict(student), coefficients=share))
            return self._averaged(student)

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
        earlier = self.ledger.find(Ensemble, trial, cycle - 1)
        assert earlier is not None
        uri = weights_uri(self.run, trial, cycle, "average")
        weights = averaged_in_task(earlier.weights, student.weights, cycle, uri)
        return self.ledger.commit(Average(trial=trial, cycle=cycle, weights=weights))

    def publish(self, trial: str, cycle: int, weights: Weights, val_mean_f1: float) -> Ensemble:
        """The re-estimated and validated ensemble of a cycle; repeated, the one that was published first.

        Raises UserError where the cycle has no average.
        """
        with self._locks[trial]:
            if self.ledger.find(Average, trial, cycle) is None:
                raise UserError(f"{trial} publishes cycle {cycle}, which has no average")
            earlier = self.ledger.find(Ensemble, trial, cycle - 1)
            assert earlier is not None
            shares = {name: share * cycle / (cycle + 1) for name, share in earlier.coefficients.items()}
            shares[f"{trial}/{cycle}"] = 1 / (cycle + 1)
            return self.ledger.commit(
                Ensemble(trial=trial, cycle=cycle, weights=weights, val_mean_f1=val_mean_f1, coefficients=shares)
            )

    def ensemble(self, trial: str, cycle: int) -> Ensemble:
        """The published ensemble of a cycle. Raises UserError where there is none."""
        found = self.ledger.find(Ensemble, trial, cycle)
        if found is None:
            raise UserError(f"{trial} of {self.run} has no ensemble of cycle {cycle}")
        return found

    def end(self, record: End) -> None:
        """A trial is over."""
        self.ledger.commit(record)

    def status(self) -> dict[str, Any]:
        """`Ledger.summary`."""
        return self.ledger.summary()


def name_of(run: str) -> str:
    """The actor's name: one run has one orchestrator."""
    return f"orchestrator-{hashlib.sha256(run.encode()).hexdigest()[:16]}"


@contextmanager
def running(run: str) -> Iterator[Any]:
    """The run's orchestrator for the time of a `with` block: the one that lives, or a new one that reads the ledger.

    It is detached, so that it outlives a driver that is killed, for the next one to adopt.
    """
    actor: Any = ray.remote(Orchestrator)
    handle = actor.options(
        name=name_of(run),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=16,
    ).remote(run)
    try:
        yield handle
    finally:
        ray.kill(handle)


def connect(run: str) -> Any:
    """The orchestrator of a run whose driver has started it."""
    return ray.get_actor(name_of(run), NAMESPACE)


def answer(reference: Any) -> Any:
    """What a method answers; a UserError is raised as it was there."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
