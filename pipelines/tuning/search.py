"""What a sweep samples, and when it stops a trial.

Trials are numbered from 0. In random search the number and the seed alone decide the values; TPE is told the values of
the trials that an earlier attempt has begun. So a number stands for the same trial after a kill.
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


def initial_run_of(config: TuneConfig) -> str:
    """The run whose last epoch all trials branch from, where they share."""
    return config.csr.initial_run or RunPaths(config.out).initial_run


def trial_config(config: TuneConfig, out: str, parameters: Mapping[str, float]) -> TrainConfig:
    """The configuration of one trial: the sweep's, with these values in place of its own."""
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
    """The values of a trial of random search: each log-uniform between its bounds."""
    random = np.random.default_rng([config.seed, number])
    return {name: float(np.exp(random.uniform(*np.log(bounds)))) for name, bounds in searched(config.search).items()}


def search_space(config: TuneConfig) -> dict[str, Any]:
    """Ray Tune's search space."""
    if config.algorithm == "random":
        return {TRIAL_NUMBER: ray.tune.grid_search(list(range(config.num_trials)))}
    return {name: ray.tune.loguniform(*bounds) for name, bounds in searched(config.search).items()}


def tune_config(config: TuneConfig, max_concurrent: int) -> ray.tune.TuneConfig:
    """Raises UserError where Optuna is needed and missing."""
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
        """Every suggestion carries its number."""

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
    """The values of the trials that an earlier attempt has begun, up to the last of them."""
    found = [run_directory.read_config(RunPaths(config.out).trial(number)) for number in range(config.num_trials)]
    last = max((number for number, trial in enumerate(found) if trial is not None), default=-1)
    return [
        sample_values(config, number) if trial is None else parameters_of(config.search, trial)
        for number, trial in enumerate(found[: last + 1])
    ]


def scheduler(config: TuneConfig) -> TrialScheduler:
    """ASHA over epochs. It never stops a trial at its last epoch: what is left then is the last ensemble."""
    is_branched = config.soup or config.csr.initial_run is not None
    grace, last = config.grace_epochs + (config.schedule.epochs if is_branched else 0), config.max_epochs
    if not config.early_stopping or grace >= last:
        return FIFOScheduler()
    return ASHAScheduler(time_attr="epoch", max_t=max(grace, last - 1), grace_period=grace, stop_last_trials=False)
