"""Log lines of a training's controller while it waits for the workers' resources."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.config.workers import WorkersConfig
from pipelines.regulation.orchestrator import TrialRef
from pipelines.run import console, phases, ray_internals, ray_settings
from pipelines.run.waiting import waiting


def placement_log(out: str, trial_ref: TrialRef, workers: WorkersConfig) -> Any:
    """Returns a callback that runs in the controller whenever workers start, also those that replace lost ones."""

    @contextmanager
    def log() -> Iterator[None]:
        console.forward_logs_to_driver(trial_ref.lines_name)
        phases.enter(out, "waiting for workers")
        each = f"CPU {workers.cpus_per_worker}{', GPU 1' if workers.use_gpu else ''}"
        count = "a worker" if workers.num_workers == 1 else f"{workers.num_workers} workers"
        what = f"the resources of {count} ({each} for each) and the start"
        bound = f"limit: {ray_settings.NODES_SECONDS.name} = {ray_internals.worker_start_seconds():g} s"
        with waiting(what, bound, logging.INFO):
            yield

    return ray_internals.around_worker_start(log)
