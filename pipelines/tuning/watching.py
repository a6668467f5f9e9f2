"""Watches the trials of a sweep from its driver: records how each ends, and ends the sweep for faults all share."""

import logging
from typing import Any

import ray.tune
from ray.tune.experiment import Trial as RayTrial

from pipelines.config.training import TuneConfig
from pipelines.errors import RunFailedError
from pipelines.regulation import orchestrator
from pipelines.regulation.ledger import TrialEnd
from pipelines.run.paths import RunPaths, trial_name
from pipelines.run.ray_calls import get_result
from pipelines.run.states import State, state_of
from pipelines.tuning.search import TRIAL_NUMBER
from pipelines.tuning.trials import failure, mark_failed, mark_stopped, shared_fault

logger = logging.getLogger(__name__)


class TrialRecorder(ray.tune.Callback):
    """Records on storage, and in the orchestrator, which trials were stopped early or lost."""

    def __init__(self, config: TuneConfig) -> None:
        self.config = config
        self.shared_fault: str | None = None
        """The sentence of a trial that failed by something that all trials share, such as the data set."""

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        number = trial.config[TRIAL_NUMBER]
        out = RunPaths(self.config.out).trial(number)
        self.shared_fault = self.shared_fault or shared_fault(out)
        if self.shared_fault is not None:
            return  # Tune ends the other trials; they were not stopped for their score, and continue with the sweep
        if state_of(out) in (State.UNFINISHED, State.STOPPED):
            if self.config.averages_students:
                actor = orchestrator.connect(self.config.out)
                end = TrialEnd(trial=trial_name(number), state=State.STOPPED)
                get_result(actor.finish_trial.remote(end), "the orchestrator's answer to finish_trial")
            mark_stopped(out)
        why = failure(out)
        logger.info("trial %s: %s", trial_name(number), f"failed: {why}" if why else state_of(out))

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        number = trial.config[TRIAL_NUMBER]
        times = self.config.workers.max_failures + 1
        reason = f"it lost its process or its workers {times} times; see {self.config.out}/tune"
        mark_failed(RunPaths(self.config.out).trial(number), RunFailedError(reason))
        logger.error("trial %s failed: %s", trial_name(number), reason)


class SharedFaultStopper(ray.tune.Stopper):
    """Ends a sweep in which a trial has met a fault that every other trial would meet too."""

    def __init__(self, recorder: TrialRecorder) -> None:
        self.recorder = recorder

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.recorder.shared_fault is not None
