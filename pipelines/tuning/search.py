"""The values that a sweep samples, and the rule that stops a trial early.

Trials are numbered from 0. In random search the number and the seed alone decide the values. TPE first suggests the
values of the trials that an earlier attempt has begun. So after a kill each number has the same trial as before.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import ray.tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher

from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.errors import UserError
from pipelines.run import run_directory
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.paths import RunPaths
from pipelines.tuning.trials import parameters_of, searched

TRIAL_NUMBER = "number"
"""Key of the trial's number among the values that Ray Tune hands to a trial."""


def initial_run_of(config: TuneConfig) -> str:
    """The run from whose last epoch all trials branch if they share an initial phase."""
    return config.csr.initial_run or RunPaths(config.out).initial_run


def trial_config(config: TuneConfig, out: str, parameters: Mapping[str, float]) -> TrainConfig:
    """The configuration of one trial: that of the sweep with the sampled `parameters`, written to `out`."""
    values = config.model_dump(include=set(TrainConfig.model_fields)) | {"out": out}
    if config.soup:
        values["csr"]["initial_run"] = initial_run_of(config)
    for name, value in parameters.items():
        if name == "lr":
            values["optimizer"]["lr"] = value
        elif name == "cycle_epochs":
            values["csr"]["cycle_epochs"] = max(1, round(value))
        else:
            values["loss"][name] = value
    return TrainConfig.model_validate(values)


def sample_values(config: TuneConfig, number: int) -> dict[str, float]:
    """The values of trial `number` in random search, each sampled log-uniformly between its bounds."""
    random = np.random.default_rng([config.seed, number])
    return {name: float(np.exp(random.uniform(*np.log(bounds)))) for name, bounds in searched(config.search).items()}


def search_space(config: TuneConfig) -> dict[str, Any]:
    """The search space for Ray Tune: the trial numbers in random search, else the bounds of each value."""
    if config.algorithm == "random":
        return {TRIAL_NUMBER: ray.tune.grid_search(list(range(config.num_trials)))}
    return {name: ray.tune.loguniform(*bounds) for name, bounds in searched(config.search).items()}


def tune_config(config: TuneConfig, max_concurrent: int) -> ray.tune.TuneConfig:
    """The settings of Ray Tune for the sweep. Raises UserError if Optuna is needed and not installed."""
    is_random = config.algorithm == "random"
    algorithm: Searcher | SearchAlgorithm = BasicVariantGenerator(max_concurrent=max_concurrent)
    return ray.tune.TuneConfig(
        metric=VAL_MEAN_F1,
        mode="max",
        num_samples=1 if is_random else config.num_trials,
        max_concurrent_trials=None if is_random else max_concurrent,
        search_alg=algorithm if is_random else _tpe(config),
        scheduler=scheduler(config),
    )


def _tpe(config: TuneConfig) -> Searcher:
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise UserError("--algorithm tpe needs Optuna: pip install optuna") from error

    class Numbered(OptunaSearch):
        """An Optuna search that adds to each suggestion the number of its trial."""

        num_suggested = 0

        def suggest(self, trial_id: str) -> dict[str, Any] | None:
            values = super().suggest(trial_id)
            if values is not None:
                values[TRIAL_NUMBER] = self.num_suggested
                self.num_suggested += 1
            return values

    sampler = optuna.samplers.TPESampler(seed=config.seed)
    return Numbered(sampler=sampler, points_to_evaluate=started_trial_values(config) or None)


def started_trial_values(config: TuneConfig) -> list[dict[str, float]]:
    """The values of all trials up to the last one that an earlier attempt has begun, by number."""
    found = [run_directory.read_config(RunPaths(config.out).trial(number)) for number in range(config.num_trials)]
    last = max((number for number, trial in enumerate(found) if trial is not None), default=-1)
    return [
        sample_values(config, number) if trial is None else parameters_of(config.search, trial)
        for number, trial in enumerate(found[: last + 1])
    ]


def scheduler(config: TuneConfig) -> TrialScheduler:
    """An ASHA scheduler over epochs, or FIFO if early stopping is off or the grace period covers all epochs.

    ASHA never stops a trial at its last epoch, after which only the last ensemble is missing.
    """
    grace, last = config.first_stop_epoch, config.max_epochs
    if not config.early_stopping or grace >= last:
        return FIFOScheduler()
    return ASHAScheduler(time_attr="epoch", max_t=max(grace, last - 1), grace_period=grace, stop_last_trials=False)
