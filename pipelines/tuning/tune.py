"""`tune`: Ray Tune searches the loss weights; each trial is a whole training, with its cycles inside.

Each trial has a run directory of its own below `<run>/trials/`. After a kill the sweep begins again: a trial that is
finished or was stopped tells its scores at once, one that was cut off continues.
"""

import logging
import math
import os
from functools import partial
from typing import Any

import ray
import ray.tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.integration.ray_train import TuneReportCallback

from dmlcsr.weights import MODEL_FILES
from pipelines import storage
from pipelines.config import plain_yaml
from pipelines.config.training import ClusterConfig, CsrConfig, TrainConfig, TuneConfig
from pipelines.data import dataset
from pipelines.data.dataset import Manifest
from pipelines.errors import RunFailedError, UserError
from pipelines.regulation import orchestrator, tasks
from pipelines.regulation.ledger import TrialEnd
from pipelines.regulation.orchestrator import TrialRef
from pipelines.regulation.tasks import SOUP_CPUS
from pipelines.run import console, preflight, result_file, run_directory
from pipelines.run.driver_log import driver_log
from pipelines.run.lock import ownership
from pipelines.run.session import ray_session
from pipelines.training import train
from pipelines.tuning import trials
from pipelines.tuning.search import (
    INITIAL_RUN,
    TRIAL_NUMBER,
    initial_run_of,
    sample_values,
    search_space,
    trial_config,
    tune_config,
)
from pipelines.tuning.trials import (
    METRIC,
    failure,
    mark_failed,
    mark_finished,
    mark_stopped,
    state_of,
    trial_name,
    trial_uri,
)

logger = logging.getLogger(__name__)
DRIVER_CPUS = 0.1
"""Of the process that each trial has beside its workers."""
BEST, TABLE = "best.yaml", "trials.json"
START_TIMEOUT_SECONDS = "3600"
"""How long the workers of a trial may wait for their place: other trials take their time."""


def run(config: TuneConfig) -> dict[str, Any]:
    """`{"run", "best_trial", "best_config", "val_mean_f1", "model", "trials"}`."""
    manifest = dataset.read_manifest(config.data)
    finished = run_directory.finished_result(config, manifest.digest, "tune")
    if finished is not None:
        return finished
    train.check_inputs(config, manifest)
    run_directory.claim(config, manifest.digest)
    soup, limits = soup_settings(config, manifest), autoscaler_limits(config)
    with (
        ownership(config.out),
        driver_log(config.out),
        ray_session(*min_start_resources(config, limits), train.worker_bytes(config, manifest.taxonomy)),
    ):
        result_file.mark_unfinished("tune", config.out)
        fits = max_concurrent(config, limits)
        if soup:
            train_initial_run(config, manifest)
        with orchestrator.orchestrator_actor(config.out, soup):
            search(config, manifest, fits)
    return export_best_trial(config)


def summary(result: dict[str, Any]) -> str:
    best = f"best: trial {result['best_trial']}, {100 * result[METRIC]:.2f} %; model in {result['model']}"
    return f"{trials.as_text(result['trials'])}\n{best}; for `train --config`: {result['best_config']}"


def autoscaler_limits(config: TuneConfig) -> ClusterConfig:
    """What the cluster may grow to; one that is started for this command does not grow."""
    is_given = os.environ.get("RAY_ADDRESS") or ray.is_initialized()
    return config.cluster if is_given else ClusterConfig()


def min_start_resources(config: TuneConfig, limits: ClusterConfig) -> tuple[float, float]:
    """CPUs and GPUs that must be there from the beginning: none of those that an autoscaler may add."""
    cpus, gpus = train.needs(config)
    spare = SOUP_CPUS if config.soup else 0
    return 0 if limits.max_cpus else cpus + DRIVER_CPUS + spare, 0 if limits.max_gpus else gpus


def max_concurrent(config: TuneConfig, limits: ClusterConfig) -> int:
    """Trials that the cluster, grown as far as it may, runs at once.

    Raises UserError, with what is missing, where it can never run one.
    """
    cluster = preflight.capacity()
    cpus, gpus = train.needs(config)
    wanted = {
        "CPU": (cpus + DRIVER_CPUS, max(cluster.cpus, limits.max_cpus or 0)),
        "GPU": (gpus, max(cluster.gpus, limits.max_gpus or 0)),
    }
    # A soup is made beside the trials: it must find a place that they leave free.
    spare = {"CPU": SOUP_CPUS, "GPU": int(gpus > 0)} if config.soup else {"CPU": 0, "GPU": 0}
    fits = math.inf
    for name, (needed, present) in wanted.items():
        if needed > present:
            raise UserError(f"a trial needs {needed:g} {name}s at once and the cluster has, or may get, {present:g}")
        fits = min(fits, (present - spare[name]) // needed if needed else math.inf)
    return max(1, int(fits))


def soup_settings(config: TuneConfig, manifest: Manifest) -> dict[str, Any] | None:
    """What the orchestrator needs to make soups, where trials share."""
    if not config.soup:
        return None
    plain = trial_config(config, config.out, {})
    return {"config": plain.model_dump(mode="json"), "manifest": manifest.model_dump(mode="json")}


def train_initial_run(config: TuneConfig, manifest: Manifest) -> None:
    """The initial phase from which all trials branch, trained once, with the configured weights."""
    out = initial_run_of(config)
    if out == config.csr.initial_run or state_of(out) == "finished":
        return
    values = config.model_dump(include=set(TrainConfig.model_fields)) | {"out": out, "csr": CsrConfig()}
    warm = TrainConfig.model_validate(values)
    run_directory.claim(warm, manifest.digest)
    logger.info("training the initial phase that all trials share")
    mark_finished(out, train.train_trial(warm, manifest, TrialRef(config.out, INITIAL_RUN)))


def search(config: TuneConfig, manifest: Manifest, fits: int) -> None:
    """Runs all trials to their end, `fits` at once. Raises RunFailedError where it was interrupted."""
    fs, path = storage.arrow_filesystem(config.out)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(partial(run_trial, config, manifest), {"CPU": DRIVER_CPUS}),
        param_space=search_space(config),
        tune_config=tune_config(config, fits),
        run_config=ray.tune.RunConfig(
            name="tune",
            storage_path=path,
            storage_filesystem=fs,
            verbose=0,
            callbacks=[TrialRecorder(config)],
            failure_config=ray.tune.FailureConfig(max_failures=config.workers.max_failures),
        ),
    )
    tuner.fit()
    if any(state_of(trial_uri(config.out, number)) == "unfinished" for number in range(config.num_trials)):
        raise RunFailedError(f"the sweep {config.out} was interrupted; the same command continues")  # Tune hides Ctrl-C


def run_trial(config: TuneConfig, manifest: Manifest, values: dict[str, Any]) -> None:
    """One trial, in a process of its own: tells what an earlier attempt has measured, and trains what is missing."""
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", START_TIMEOUT_SECONDS)
    number = values[TRIAL_NUMBER]
    trial_ref = TrialRef(config.out, trial_name(number))
    console.forward_logs_to_driver(trial_ref.lines_name)
    out = trial_uri(config.out, number)
    for record in run_directory.read_metrics(out):
        ray.tune.report(dict(record))
    if state_of(out) in ("finished", "stopped"):
        return
    mine = run_directory.read_config(out)
    if mine is None:
        suggested = {name: value for name, value in values.items() if name != TRIAL_NUMBER}
        mine = trial_config(config, out, suggested or sample_values(config, number))
    mine = mine.model_copy(update={"workers": config.workers})  # the cluster may be another one now
    run_directory.claim(mine, manifest.digest)
    result_file.mark_unfinished("train", out)
    try:
        mark_finished(out, train.train_trial(mine, manifest, trial_ref, [TuneReportCallback()]))
    except (RunFailedError, UserError) as error:
        mark_failed(out, str(error))


class TrialRecorder(ray.tune.Callback):
    """Tells storage, and the orchestrator, which trials were stopped early or lost."""

    def __init__(self, config: TuneConfig) -> None:
        self.config = config

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        number = trial.config[TRIAL_NUMBER]
        out = trial_uri(self.config.out, number)
        if state_of(out) in ("unfinished", "stopped"):
            if self.config.averages_students:
                actor = orchestrator.connect(self.config.out)
                end = TrialEnd(trial=trial_name(number), state="stopped")
                tasks.answer(actor.finish_trial.remote(end), "the orchestrator's answer to finish_trial")
            mark_stopped(out)
        why = failure(out)
        logger.info("trial %s: %s", trial_name(number), f"failed: {why}" if why else state_of(out))

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        number = trial.config[TRIAL_NUMBER]
        reason = f"its process ended {self.config.workers.max_failures + 1} times; see {self.config.out}/tune"
        mark_failed(trial_uri(self.config.out, number), reason)
        logger.error("trial %s failed: %s", trial_name(number), reason)


def export_best_trial(config: TuneConfig) -> dict[str, Any]:
    """Writes the table of trials, the best trial's model and its configuration."""
    table = trials.trial_summaries(config)
    finished = [entry for entry in table if entry["state"] == "finished"]
    if not finished:
        failures = [f"trial {entry['trial']}: {failure(entry['run'])}" for entry in table if entry["state"] == "failed"]
        raise RunFailedError(f"no trial of {config.out} has finished; {'; '.join(failures[:3])}")
    best = max(finished, key=lambda entry: entry[METRIC])
    for name in MODEL_FILES:  # the card comes last
        data = storage.read_bytes(storage.join(best["run"], "model", name))
        storage.write_bytes(storage.join(config.out, "model", name), data)
    values = plain_yaml.load(storage.read_bytes(storage.join(best["run"], run_directory.CONFIG)).decode())
    chosen = storage.join(config.out, BEST)
    kept = {name: value for name, value in values.items() if name not in ("data", "out")}
    storage.write_bytes(chosen, plain_yaml.dump(kept).encode())
    storage.write_json(storage.join(config.out, TABLE), {"trials": table})
    return {
        "run": config.out,
        "best_trial": best["trial"],
        "best_config": chosen,
        METRIC: best[METRIC],
        "model": storage.join(config.out, "model"),
        "trials": table,
    }
