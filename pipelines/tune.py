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
from pipelines import (
    dataset,
    orchestrator,
    outcome,
    plain_yaml,
    preflight,
    run_directory,
    storage,
    tasks,
    train,
    trials,
)
from pipelines.dataset import Manifest
from pipelines.errors import RunFailedError, UserError, WorkersLostError
from pipelines.ledger import End
from pipelines.orchestrator import Place
from pipelines.owner import ownership
from pipelines.search import NUMBER, WARM, sampled, space, trial_config, tune_config, warm_of
from pipelines.session import ray_session
from pipelines.tasks import SOUP_CPUS
from pipelines.training_config import ClusterConfig, CsrConfig, TrainConfig, TuneConfig
from pipelines.trials import METRIC, fail, failure, finish, name_of, out_of, state_of, stop

logger = logging.getLogger(__name__)
DRIVER_CPUS = 0.1
"""Of the process that each trial has beside its workers."""
BEST, TABLE = "best.yaml", "trials.json"
PLACE_SECONDS = "3600"
"""How long the workers of a trial may wait for their place: other trials take their time."""


def run(config: TuneConfig) -> dict[str, Any]:
    """`{"run", "best_trial", "best_config", "val_mean_f1", "model", "trials"}`."""
    manifest = dataset.read_manifest(config.data)
    finished = run_directory.finished(config, manifest.digest, "tune")
    if finished is not None:
        return finished
    train.check_inputs(config, manifest)
    run_directory.claim(config, manifest.digest)
    soup, limits = soup_settings(config, manifest), may_grow_to(config)
    with (
        ownership(config.out),
        ray_session(*present_at_once(config, limits), train.worker_bytes(config, manifest.class_set)),
    ):
        outcome.begin("tune", config.out)
        fits = max_concurrent(config, limits)
        if soup:
            train_shared(config, manifest)
        with orchestrator.running(config.out, soup):
            search(config, manifest, fits)
    return conclude(config)


def summary(result: dict[str, Any]) -> str:
    best = f"best: trial {result['best_trial']}, {100 * result[METRIC]:.2f} %; model in {result['model']}"
    return f"{trials.as_text(result['trials'])}\n{best}; for `train --config`: {result['best_config']}"


def may_grow_to(config: TuneConfig) -> ClusterConfig:
    """What the cluster may grow to; one that is started for this command does not grow."""
    is_given = os.environ.get("RAY_ADDRESS") or ray.is_initialized()
    return config.cluster if is_given else ClusterConfig()


def present_at_once(config: TuneConfig, limits: ClusterConfig) -> tuple[float, float]:
    """CPUs and GPUs that must be there from the beginning: none of those that an autoscaler may add."""
    cpus, gpus = train.needed(config)
    spare = SOUP_CPUS if config.csr.share == "soup" else 0
    return 0 if limits.max_cpus else cpus + DRIVER_CPUS + spare, 0 if limits.max_gpus else gpus


def max_concurrent(config: TuneConfig, limits: ClusterConfig) -> int:
    """Trials that the cluster, grown as far as it may, runs at once.

    Raises UserError, with what is missing, where it can never run one.
    """
    cluster = preflight.capacity()
    cpus, gpus = train.needed(config)
    wanted = {
        "CPU": (cpus + DRIVER_CPUS, max(cluster.cpus, limits.max_cpus or 0)),
        "GPU": (gpus, max(cluster.gpus, limits.max_gpus or 0)),
    }
    # A soup is made beside the trials: it must find a place that they leave free.
    spare = {"CPU": SOUP_CPUS, "GPU": int(gpus > 0)} if config.csr.share == "soup" else {"CPU": 0, "GPU": 0}
    fits = math.inf
    for name, (needed, present) in wanted.items():
        if needed > present:
            raise UserError(f"a trial needs {needed:g} {name}s at once and the cluster has, or may get, {present:g}")
        fits = min(fits, (present - spare[name]) // needed if needed else math.inf)
    return max(1, int(fits))


def soup_settings(config: TuneConfig, manifest: Manifest) -> dict[str, Any] | None:
    """What the orchestrator needs to make soups, where trials share."""
    if config.csr.share == "none":
        return None
    plain = trial_config(config, config.out, {})
    return {"config": plain.model_dump(mode="json"), "manifest": manifest.model_dump(mode="json")}


def train_shared(config: TuneConfig, manifest: Manifest) -> None:
    """The warm phase from which all trials branch, trained once, with the configured weights."""
    out = warm_of(config)
    if out == config.csr.warm or state_of(out) == "finished":
        return
    values = config.model_dump(include=set(TrainConfig.model_fields)) | {"out": out, "csr": CsrConfig()}
    warm = TrainConfig.model_validate(values)
    run_directory.claim(warm, manifest.digest)
    logger.info("training the warm phase that all trials share")
    finish(out, train.train_trial(warm, manifest, Place(config.out, WARM)))


def search(config: TuneConfig, manifest: Manifest, fits: int) -> None:
    """Runs all trials to their end, `fits` at once. Raises RunFailedError where it was interrupted."""
    fs, path = storage.arrow_filesystem(config.out)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(partial(run_trial, config, manifest), {"CPU": DRIVER_CPUS}),
        param_space=space(config),
        tune_config=tune_config(config, fits),
        run_config=ray.tune.RunConfig(
            name="tune",
            storage_path=path,
            storage_filesystem=fs,
            verbose=0,
            callbacks=[Bookkeeper(config)],
            failure_config=ray.tune.FailureConfig(max_failures=config.workers.max_failures),
        ),
    )
    tuner.fit()
    if any(state_of(out_of(config.out, number)) == "unfinished" for number in range(config.num_trials)):
        raise RunFailedError(f"the sweep {config.out} was interrupted; the same command continues")  # Tune hides Ctrl-C


def run_trial(config: TuneConfig, manifest: Manifest, values: dict[str, Any]) -> None:
    """One trial, in a process of its own: tells what an earlier attempt has measured, and trains what is missing."""
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", PLACE_SECONDS)
    number = values[NUMBER]
    out = out_of(config.out, number)
    for record in run_directory.read_metrics(out):
        ray.tune.report(dict(record))
    if state_of(out) in ("finished", "stopped"):
        return
    mine = run_directory.read_config(out)
    if mine is None:
        suggested = {name: value for name, value in values.items() if name != NUMBER}
        mine = trial_config(config, out, suggested or sampled(config, number))
    mine = mine.model_copy(update={"workers": config.workers})  # the cluster may be another one now
    run_directory.claim(mine, manifest.digest)
    outcome.begin("train", out)
    place, callbacks = Place(config.out, name_of(number)), [TuneReportCallback()]
    try:
        finish(out, train.train_trial(replacing_nothing(mine), manifest, place, callbacks))
    except WorkersLostError:
        raise  # Tune begins the trial again, up to `workers.max_failures` times
    except (RunFailedError, UserError) as error:
        fail(out, str(error))


def replacing_nothing(config: TrainConfig) -> TrainConfig:
    """The same training, which ends where it loses a worker.

    Processes of a trial that is stopped die one after the other. A controller that outlived its workers and replaced
    them would ask for a new place, and die before it told Ray's cleaner: its CPUs and GPUs would never be free again.
    """
    return config.model_copy(update={"workers": config.workers.model_copy(update={"max_failures": 0})})


class Bookkeeper(ray.tune.Callback):
    """Tells storage, and the orchestrator, which trials were stopped early or lost."""

    def __init__(self, config: TuneConfig) -> None:
        self.config = config

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        number = trial.config[NUMBER]
        out = out_of(self.config.out, number)
        if state_of(out) in ("unfinished", "stopped"):
            if self.config.is_regulated:
                actor = orchestrator.connect(self.config.out)
                tasks.answer(actor.end.remote(End(trial=name_of(number), state="stopped")))
            stop(out)
        why = failure(out)
        logger.info("trial %s: %s", name_of(number), f"failed: {why}" if why else state_of(out))

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        number = trial.config[NUMBER]
        times = self.config.workers.max_failures + 1
        reason = f"it lost its process or its workers {times} times; see {self.config.out}/tune"
        fail(out_of(self.config.out, number), reason)
        logger.error("trial %s failed: %s", name_of(number), reason)


def conclude(config: TuneConfig) -> dict[str, Any]:
    """Writes the table of trials, the best trial's model and its configuration."""
    table = trials.table(config)
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
