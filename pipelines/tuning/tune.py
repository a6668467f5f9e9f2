"""`tune`: Ray Tune searches the loss weights. Each trial is a complete training with its cycles.

Each trial has its own run directory below `<run>/trials/`. After a kill the same command starts the sweep again.
A trial that is finished or was stopped reports its stored scores at once; an interrupted trial continues.
"""

import logging
import math
import os
from functools import partial
from typing import Any, TypedDict, cast

import ray
import ray.tune
from ray.tune.integration.ray_train import TuneReportCallback

from dmlcsr.weights import MODEL_FILES
from pipelines import storage
from pipelines.config import plain_yaml
from pipelines.config.training import ClusterConfig, CsrConfig, TrainConfig, TuneConfig
from pipelines.data import dataset
from pipelines.data.dataset import Manifest
from pipelines.errors import RunFailedError, UserError, WorkersLostError
from pipelines.regulation import orchestrator
from pipelines.regulation.orchestrator import TrialRef
from pipelines.regulation.tasks import SOUP_CPUS
from pipelines.run import claims, console, preflight, ray_settings, result_file, run_directory
from pipelines.run.driver_log import driver_log
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.paths import INITIAL_TRIAL, RunPaths, trial_name
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session
from pipelines.run.states import State, state_of
from pipelines.training import cores, train
from pipelines.tuning import trials
from pipelines.tuning.search import (
    TRIAL_NUMBER,
    initial_run_of,
    sample_values,
    search_space,
    trial_config,
    tune_config,
)
from pipelines.tuning.trials import (
    SweepTrial,
    failure,
    mark_failed,
    mark_finished,
)
from pipelines.tuning.watching import SharedFaultStopper, TrialRecorder

logger = logging.getLogger(__name__)
DRIVER_CPUS = 0.1
"""CPUs of each trial's driver process. It mostly waits for the trial's workers."""
MAY_DIFFER = (*train.MAY_DIFFER, "cluster")
"""Options that may change when a sweep continues: it may continue on other hardware."""


class TuneResult(TypedDict):
    """The result of `tune`."""

    run: str
    best_trial: str
    best_config: str
    """URI of the best trial's configuration, for `train --config`."""
    val_mean_f1: float
    """The best trial's validation mean F1, 0 to 1."""
    model: str
    trials: list[SweepTrial]


def run(config: TuneConfig) -> TuneResult:
    """Runs a sweep, or continues it, and exports the best trial's model and configuration."""
    manifest = dataset.read_manifest(config.data, config.base)
    inputs = {"data": manifest.digest}
    config = claims.find_claim("tune", config, config.out, inputs, MAY_DIFFER) or config
    if (finished := result_file.earlier_result(config.out, "tune")) is not None:
        return cast(TuneResult, finished)
    train.check_inputs(config, manifest)
    with claims.claim_output("tune", config, config.out, inputs, MAY_DIFFER) as claimed:
        sweep(claimed.config, manifest)
        return export_best_trial(claimed.config)


def sweep(config: TuneConfig, manifest: Manifest) -> None:
    """Runs all trials that are not done yet. If they share an initial run, trains it before them."""
    run_directory.describe(config, manifest.digest)
    soup, limits = soup_settings(config, manifest), autoscaler_limits(config)
    needs = min_start_needs(config, limits, train.worker_bytes(config, manifest.taxonomy))
    session = ray_session(needs, manifest.inputs(config.data))
    with driver_log(config.out), session:
        num_concurrent = min(config.num_trials, max_concurrent(config, limits))
        config = with_settled_workers(config, num_concurrent)
        num_concurrent = min(
            num_concurrent, max_concurrent(config, limits)
        )  # stored numbers may be of a larger cluster
        if soup:
            train_initial_run(config, manifest)
        with orchestrator.orchestrator_actor(config.out, soup):
            search(config, manifest, num_concurrent)


def summary(result: TuneResult) -> str:
    best = f"best: trial {result['best_trial']}, {100 * result[VAL_MEAN_F1]:.2f} %; model in {result['model']}"
    return f"{trials.as_text(result['trials'])}\n{best}; for `train --config`: {result['best_config']}"


def autoscaler_limits(config: TuneConfig) -> ClusterConfig:
    """The upper limits of the autoscaler; none for a cluster that this command starts."""
    is_given = os.environ.get(ray_settings.ADDRESS) or ray.is_initialized()
    return config.cluster if is_given else ClusterConfig()


def min_start_needs(config: TuneConfig, limits: ClusterConfig, process_bytes: int) -> Needs:
    """The CPUs, GPUs and memory that must exist before the sweep starts; 0 CPUs or GPUs if an autoscaler can add them.

    The nodes of such an autoscaler are unknown, so no worker is compared with them.

    `process_bytes`: memory of a worker in bytes.
    """
    trial = train.needs(config, process_bytes)
    cpus = trial.cpus + DRIVER_CPUS + (SOUP_CPUS if config.soup else 0)
    return trial._replace(
        cpus=0 if limits.max_cpus else cpus,
        gpus=0 if limits.max_gpus else trial.gpus,
        num_workers=0 if limits.max_cpus or limits.max_gpus else trial.num_workers,
    )


def max_concurrent(config: TuneConfig, limits: ClusterConfig) -> int:
    """The number of trials that fit at the same time into the cluster at its maximum size.

    Raises UserError with the missing resource if not even one trial fits.
    """
    cluster = preflight.capacity()
    trial = train.needs(config)
    wanted = {
        "CPU": (trial.cpus + DRIVER_CPUS, max(cluster.cpus, limits.max_cpus or 0)),
        "GPU": (trial.gpus, max(cluster.gpus, limits.max_gpus or 0)),
    }
    # A soup is made while trials run, so they must leave its resources free.
    spare = {"CPU": SOUP_CPUS, "GPU": int(trial.gpus > 0)} if config.soup else {"CPU": 0, "GPU": 0}
    fits = math.inf
    for name, (needed, present) in wanted.items():
        if needed > present:
            raise UserError(f"a trial needs {needed:g} {name}s at once and the cluster has, or may get, {present:g}")
        fits = min(fits, (present - spare[name]) // needed if needed else math.inf)
    return max(1, int(fits))


def with_settled_workers(config: TuneConfig, num_concurrent: int) -> TuneConfig:
    """The configuration with the numbers of all workers chosen, so that `num_concurrent` trials run at once."""
    present = preflight.capacity()
    spare = SOUP_CPUS if config.soup else 0
    nodes = tuple(node._replace(cpus=node.cpus - spare) for node in present.nodes)
    present = present._replace(cpus=present.cpus - spare, nodes=nodes)
    return config.model_copy(update={"workers": cores.settled(config, present, num_concurrent, DRIVER_CPUS)})


def soup_settings(config: TuneConfig, manifest: Manifest) -> dict[str, Any] | None:
    """The `settings` of `soups.make_soup`, or None if the trials share no soups."""
    if not config.soup:
        return None
    plain = trial_config(config, config.out, {})
    return {"config": plain.model_dump(mode="json"), "manifest": manifest.model_dump(mode="json")}


def train_initial_run(config: TuneConfig, manifest: Manifest) -> None:
    """Trains the initial phase from which all trials branch, once, with the configured loss weights.

    Does nothing if it is finished or if `csr.initial_run` names an existing run.
    """
    out = initial_run_of(config)
    if out == config.csr.initial_run or state_of(out) is State.FINISHED:
        return
    values = config.model_dump(include=set(TrainConfig.model_fields)) | {"out": out, "csr": CsrConfig()}
    initial = begun(out, TrainConfig.model_validate(values), manifest)
    logger.info("training the initial phase that all trials share")
    mark_finished(out, train.train_trial(initial, manifest, TrialRef(config.out, INITIAL_TRIAL)))


def begun(out: str, config: TrainConfig, manifest: Manifest) -> TrainConfig:
    """Begins or continues a run that belongs to the sweep. Returns the configuration to train with.

    A run that continues keeps its stored configuration, except the options that may differ.
    """
    stored = run_directory.read_config(out)
    if stored is None:
        claims.write_claim("train", config, out, {"data": manifest.digest})
    else:
        config = stored.model_copy(update={name: getattr(config, name) for name in train.MAY_DIFFER})
    run_directory.describe(config, manifest.digest)
    result_file.mark_unfinished("train", out)
    return config


def search(config: TuneConfig, manifest: Manifest, num_concurrent: int) -> None:
    """Runs all trials to their end, `num_concurrent` at a time.

    Raises RunFailedError if the sweep was interrupted, and UserError as soon as a trial meets a fault that all share.
    """
    fs, path = storage.arrow_filesystem(config.out)
    recorder = TrialRecorder(config)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(partial(run_trial, config, manifest), {"CPU": DRIVER_CPUS}),
        param_space=search_space(config),
        tune_config=tune_config(config, num_concurrent),
        run_config=ray.tune.RunConfig(
            name="tune",
            storage_path=path,
            storage_filesystem=fs,
            verbose=0,
            callbacks=[recorder],
            stop=SharedFaultStopper(recorder),
            failure_config=ray.tune.FailureConfig(max_failures=config.workers.max_failures),
        ),
    )
    tuner.fit()
    if recorder.shared_fault is not None:
        raise UserError(recorder.shared_fault)
    runs = [RunPaths(config.out).trial(number) for number in range(config.num_trials)]
    with trials.prefetched(config):
        is_interrupted = any(state_of(run) is State.UNFINISHED for run in runs)
    if is_interrupted:
        raise RunFailedError(f"the sweep {config.out} was interrupted; the same command continues")  # Tune hides Ctrl-C


def run_trial(config: TuneConfig, manifest: Manifest, values: dict[str, Any]) -> None:
    """Runs one trial in its own process: reports the epochs of an earlier attempt, then trains the missing ones."""
    ray_settings.TRIAL_PLACE_SECONDS.set_default()
    number = values[TRIAL_NUMBER]
    trial_ref = TrialRef(config.out, trial_name(number))
    console.forward_logs_to_driver(trial_ref.lines_name)
    out = RunPaths(config.out).trial(number)
    for record in run_directory.read_metrics(out):
        ray.tune.report(dict(record))
    if state_of(out) in (State.FINISHED, State.STOPPED):
        return
    suggested = {name: value for name, value in values.items() if name != TRIAL_NUMBER}
    mine = begun(out, trial_config(config, out, suggested or sample_values(config, number)), manifest)
    try:
        mark_finished(out, train.train_trial(replacing_nothing(mine), manifest, trial_ref, [TuneReportCallback()]))
    except WorkersLostError:
        raise  # Tune starts the trial again, up to `workers.max_failures` times
    except (RunFailedError, UserError) as error:
        mark_failed(out, error)


def replacing_nothing(config: TrainConfig) -> TrainConfig:
    """The configuration of the same training, changed so that it ends if it loses a worker.

    The processes of a stopped trial die one after the other. A controller that survived its workers would replace them
    and request new resources. It would die before it registers these with Ray's cleaner, and the CPUs and GPUs would
    never be released.
    """
    return config.model_copy(update={"workers": config.workers.model_copy(update={"max_failures": 0})})


def export_best_trial(config: TuneConfig) -> TuneResult:
    """Writes the table of trials, and the model and configuration of the best trial.

    Raises RunFailedError if no trial has finished.
    """
    with trials.prefetched(config):
        table = trials.trial_summaries(config)
    scored = [
        (score, entry)
        for entry in table
        if entry["state"] == State.FINISHED and (score := entry[VAL_MEAN_F1]) is not None
    ]
    if not scored:
        failures = [
            f"trial {entry['trial']}: {failure(entry['run'])}" for entry in table if entry["state"] == State.FAILED
        ]
        raise RunFailedError(f"no trial of {config.out} has finished; {'; '.join(failures[:3])}")
    score, best = max(scored, key=lambda pair: pair[0])
    for name in MODEL_FILES:  # the card is last: a folder with a card is complete
        data = storage.read_bytes(storage.join(RunPaths(best["run"]).model, name))
        storage.write_bytes(storage.join(RunPaths(config.out).model, name), data)
    values = plain_yaml.load(storage.read_bytes(RunPaths(best["run"]).config).decode())
    chosen = RunPaths(config.out).best_config
    kept = {name: value for name, value in values.items() if name not in ("data", "out")}
    storage.write_bytes(chosen, plain_yaml.dump(kept).encode())
    storage.write_json(RunPaths(config.out).trials_table, {"trials": table})
    return {
        "run": config.out,
        "best_trial": best["trial"],
        "best_config": chosen,
        VAL_MEAN_F1: score,
        "model": RunPaths(config.out).model,
        "trials": table,
    }
