"""Log lines of a training's controller while it waits for the workers' resources."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ray.train.v2._internal.constants import DEFAULT_WORKER_GROUP_START_TIMEOUT_S, WORKER_GROUP_START_TIMEOUT_S_ENV_VAR
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from pipelines.config.training import WorkersConfig
from pipelines.regulation.orchestrator import TrialRef
from pipelines.run import console, phases
from pipelines.run.waiting import waiting


class PlacementLog(WorkerGroupCallback):
    """Logs the wait for workers. It runs in the controller whenever workers start, also to replace lost ones."""

    def __init__(self, out: str, trial_ref: TrialRef, workers: WorkersConfig) -> None:
        self.out, self.trial_ref, self.workers = out, trial_ref, workers

    @contextmanager
    def on_worker_group_start(self) -> Iterator[None]:
        console.forward_logs_to_driver(self.trial_ref.lines_name)
        phases.enter(self.out, "waiting for workers")
        seconds = float(os.environ.get(WORKER_GROUP_START_TIMEOUT_S_ENV_VAR, DEFAULT_WORKER_GROUP_START_TIMEOUT_S))
        each = f"CPU {self.workers.cpus_per_worker}{', GPU 1' if self.workers.use_gpu else ''}"
        what = f"the resources of {self.workers.num_workers} workers ({each} for each) and their start"
        with waiting(what, f"limit: {WORKER_GROUP_START_TIMEOUT_S_ENV_VAR} = {seconds:g} s", logging.INFO):
            yield
