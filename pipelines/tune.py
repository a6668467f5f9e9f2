"""`tune`: Ray Tune searches the loss weights; each trial is a whole training, with its cycles inside.

Trials are numbered, and each has a run directory of its own below `<run>/trials/`. After a kill the sweep is sampled
again: a trial that is finished or was stopped tells its result at once, one that was cut off continues.
"""

import logging
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import ray
import ray.tune
import yaml
from ray.tune.experiment import Trial as RayTrial
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher

from pipelines import dataset, orchestrator, outcome, run_directory, storage, train, trials
from pipelines.config import CsrConfig, SearchConfig, TrainConfig, TuneConfig
from pipelines.dataset import Manifest
from pipelines.errors import RunFailedError, UserError
from pipelines.ledger import End
from pipelines.orchestrator import SOUP_CPUS, Place
from pipelines.owner import ownership
from pipelines.session import ray_session
from pipelines.trials import METRIC, fail, failure, finish, out_of, state_of, stop

logger = logging.getLogger(__name__)
DRIVER_CPUS = 0.1
"""Of the process that each trial has beside its workers."""
BEST, TABLE = "best.yaml", "trials.json"
WARM = "warm"


def run(config: TuneConfig) -> dict[str, Any]:
    """`{"run", "best_trial", "best_config", "val_mean_f1", "model", "trials"}`."""
    manifest = dataset.read_manifest(config.data)
    if run_directory.belongs(config, manifest.digest):
        finished = outcome.finished_result(config.out, "tune")
        if finished is not None:
            logger.info("%s is finished; nothing to do", config.out)
            return finished
    train.check_inputs(config, manifest)
    run_directory.claim(config, manifest.digest)
    soup = soup_settings(config, manifest)
    with ownership(config.out), ray_session(*present_at_once(config)):
        fits = max_concurrent(config)
        if soup:
            train_shared(config, manifest)
        with orchestrator.running(config.out, soup):
            search(config, manifest, fits)
    return conclude(config)


def summary(result: dict[str, Any]) -> str:
    best = f"best: trial {result['best_trial']}, {100 * result[METRIC]:.2f} %; model in {result['model']}"
    return f"{trials.as_text(result['trials'])}\n{best}; for `train --config`: {result['best_config']}"


def space(config: SearchConfig) -> dict[str, Any]:
    """Ray Tune's search space: each value that has bounds, log-uniform between them."""
    return {name: ray.tune.loguniform(*bounds) for name, bounds in trials.searched(config).items()}


def trial_config(config: TuneConfig, out: str, parameters: Mapping[str, float]) -> TrainConfig:
    """The configuration of one trial: the sweep's, with these values in place of its own."""
    values = config.model_dump(include=set(TrainConfig.model_fields)) | {"out": out}
    if config.csr.share == "soup":
        values["csr"] |= {"share": "none", "warm": warm_of(config)}
    for name, value in parameters.items():
        if name == "lr":
            values["optimizer"]["lr"] = value
        elif name == "cycle_epochs":
            values["csr"]["cycle_epochs"] = max(1, round(value))
        else:
            values["loss"][name] = value
    return TrainConfig.model_validate(values)


def present_at_once(config: TuneConfig) -> tuple[float, float]:
    """CPUs and GPUs that must be there from the beginning: none of those that an autoscaler may add."""
    cpus, gpus = train.needed(config)
    spare = SOUP_CPUS if config.csr.share == "soup" else 0
    limits = config.cluster
    return 0 if limits.max_cpus else cpus + DRIVER_CPUS + spare, 0 if limits.max_gpus else gpus


def max_concurrent(config: TuneConfig) -> int:
    """Trials that the cluster, grown as far as it may, runs at once.

    Raises UserError, with what is missing, where it can never run one.
    """
    resources = ray.cluster_resources()
    cpus, gpus = train.needed(config)
    wanted = {"CPU": (cpus + DRIVER_CPUS, config.cluster.max_cpus), "GPU": (gpus, config.cluster.max_gpus)}
    # A soup is made beside the trials: it must find a place that they leave free.
    spare = {"CPU": SOUP_CPUS, "GPU": int(gpus > 0)} if config.csr.share == "soup" else {"CPU": 0, "GPU": 0}
    fits = math.inf
    for name, (needed, limit) in wanted.items():
        present = max(resources.get(name, 0), limit or 0)
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


def warm_of(config: TuneConfig) -> str:
    """The run whose last epoch all trials branch from, where they share."""
    return config.csr.warm or storage.join(config.out, WARM)


def search(config: TuneConfig, manifest: Manifest, fits: int) -> None:
    """Runs all trials to their end, `fits` at once."""
    fs, path = storage.arrow_filesystem(config.out)
    epochs = config.num_epochs
    is_branched = config.csr.share == "soup" or config.csr.warm is not None
    grace = config.grace_epochs + (config.schedule.epochs if is_branched else 0)
    asha = ASHAScheduler(time_attr="epoch", max_t=epochs, grace_period=min(grace, epochs))
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(partial(run_trial, config, manifest), {"CPU": DRIVER_CPUS}),
        param_space=space(config.search),
        tune_config=ray.tune.TuneConfig(
            metric=METRIC,
            mode="max",
            num_samples=config.num_trials,
            max_concurrent_trials=fits,
            search_alg=algorithm(config),
            scheduler=asha if config.early_stopping else FIFOScheduler(),
        ),
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


def algorithm(config: TuneConfig) -> Searcher | SearchAlgorithm:
    """Random sampling, the same for the same seed, or Optuna's TPE. Raises UserError where Optuna is missing."""
    if config.algorithm == "random":
        return BasicVariantGenerator(random_state=config.seed)
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise UserError("--algorithm tpe needs Optuna: pip install optuna") from error
    return OptunaSearch(sampler=optuna.samplers.TPESampler(seed=config.seed))


def number_of(trial_id: str) -> str:
    """Ray's ids end in the number of the trial in the order of sampling."""
    return trial_id.rpartition("_")[2]


def run_trial(config: TuneConfig, manifest: Manifest, parameters: dict[str, float]) -> None:
    """One trial, in a process of its own: trains, or tells what an earlier attempt has measured."""
    number = number_of(ray.tune.get_context().get_trial_id())
    out = out_of(config.out, number)
    # A trial that was begun keeps its values: TPE would suggest others now.
    mine = run_directory.read_config(out) or trial_config(config, out, parameters)
    if state_of(out) in ("finished", "stopped"):
        for record in run_directory.read_metrics(out):
            ray.tune.report(dict(record))
        return
    run_directory.claim(mine, manifest.digest)
    try:
        finish(out, train.train_trial(mine, manifest, Place(config.out, number), [TuneReportCallback()]))
    except (RunFailedError, UserError) as error:
        fail(out, str(error))


class Bookkeeper(ray.tune.Callback):
    """Tells storage, and the orchestrator, which trials were stopped early."""

    def __init__(self, config: TuneConfig) -> None:
        self.config = config

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        number = number_of(trial.trial_id)
        out = out_of(self.config.out, number)
        if state_of(out) == "unfinished":
            stop(out)
            if self.config.is_regulated:
                actor = orchestrator.connect(self.config.out)
                orchestrator.answer(actor.end.remote(End(trial=number, state="stopped")))
        logger.info("trial %s: %s", number, f"failed: {message}" if (message := failure(out)) else state_of(out))


def conclude(config: TuneConfig) -> dict[str, Any]:
    """Writes the table of trials, the best trial's model and its configuration."""
    table = trials.table(config)
    finished = [entry for entry in table if entry["state"] == "finished"]
    if not finished:
        failures = [f"trial {entry['trial']}: {failure(out_of(config.out, entry['trial']))}" for entry in table]
        raise RunFailedError(f"no trial of {config.out} has finished; {'; '.join(failures[:3])}")
    best = max(finished, key=lambda entry: entry[METRIC])
    out = out_of(config.out, best["trial"])
    for uri in storage.list_files(storage.join(out, "model")):
        storage.write_bytes(storage.join(config.out, "model", uri.rpartition("/")[2]), storage.read_bytes(uri))
    values = yaml.safe_load(storage.read_bytes(storage.join(out, run_directory.CONFIG)))
    chosen = storage.join(config.out, BEST)
    kept = {name: value for name, value in values.items() if name not in ("data", "out")}
    storage.write_bytes(chosen, yaml.safe_dump(kept, sort_keys=False).encode())
    storage.write_json(storage.join(config.out, TABLE), {"trials": table})
    return {
        "run": config.out,
        "best_trial": best["trial"],
        "best_config": chosen,
        METRIC: best[METRIC],
        "model": storage.join(config.out, "model"),
        "trials": table,
    }
