"""What a sweep samples, and what it makes of it, without a cluster."""

import pytest
from pydantic import ValidationError
from ray.tune.schedulers import FIFOScheduler

from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.errors import DataSetError, RunFailedError, UserError
from pipelines.run import claims
from pipelines.run.paths import RunPaths
from pipelines.run.states import state_of
from pipelines.tuning import search, trials

BASE = {"data": "/data", "out": "/run", "csr": {"num_cycles": 2}}


def test_searched_values_take_the_place_of_the_configured_ones_and_nothing_else_changes():
    config = TuneConfig.model_validate(BASE | {"search": {"lr": [1e-4, 1e-2], "cycle_epochs": "1,8"}})
    values = {"parsing": 2.0, "binary_edge": 0.5, "lr": 0.001, "cycle_epochs": 2.6}
    trial = search.trial_config(config, "/run/trials/00001", values)
    assert type(trial) is TrainConfig and trial.out == "/run/trials/00001"
    assert (trial.loss.parsing, trial.loss.binary_edge, trial.optimizer.lr, trial.csr.cycle_epochs) == (
        2.0,
        0.5,
        0.001,
        3,
    )
    assert trial.loss.category_edge == config.loss.category_edge and trial.csr.num_cycles == 2
    told = trials.parameters_of(config.search, trial)
    assert told["parsing"] == 2.0 and told["cycle_epochs"] == 3 and set(told) == set(trials.searched(config.search))


def test_what_has_no_bounds_is_not_searched():
    config = TuneConfig.model_validate(BASE | {"search": {"binary_edge": None}})
    assert set(trials.searched(config.search)) == {
        "parsing",
        "category_edge",
        "binary_edge_attention",
        "category_edge_attention",
    }


@pytest.mark.parametrize("bounds", ["3,1", "0,1", "1", "1,1", "a,b"])
def test_bounds_must_rise_and_be_positive(bounds):
    with pytest.raises(ValidationError):
        TuneConfig.model_validate(BASE | {"search": {"parsing": bounds}})


def test_a_trial_that_was_stopped_or_finished_stays_so(tmp_path):
    out = str(tmp_path)
    assert state_of(out) == "unfinished"
    trials.mark_stopped(out)
    assert state_of(out) == "stopped"
    trials.mark_failed(out, RunFailedError("the loss is not finite"))
    assert state_of(out) == "failed" and trials.failure(out) == "the loss is not finite"
    assert trials.shared_fault(out) is None, "another trial has another loss"
    trials.mark_failed(out, UserError("the weights are not finite"))
    assert trials.shared_fault(out) is None, "another trial has other weights"
    trials.mark_failed(out, DataSetError("the data set is gone"))
    assert trials.shared_fault(out) == "the data set is gone"
    trials.mark_finished(out, {"val_mean_f1": 0.5})
    assert state_of(out) == "finished" and not trials.failure(out)


def test_the_number_and_the_seed_alone_decide_what_random_search_samples():
    config = TuneConfig.model_validate(BASE | {"search": {"lr": [1e-4, 1e-2]}, "seed": 3})
    more = config.model_copy(update={"num_trials": 100})
    drawn = [search.sample_values(more, number) for number in range(100)]
    assert drawn[:8] == [search.sample_values(config, number) for number in range(8)]
    for name, (low, high) in trials.searched(config.search).items():
        values = sorted(one[name] for one in drawn)
        assert low <= values[0] < values[-1] <= high and len(set(values)) == 100
        assert low < values[50] < high / 2  # the middle of a logarithmic scale


@pytest.mark.parametrize(("grace", "first"), [(1, 1), (2, 2), (5, None), (9, None)])
def test_no_trial_is_stopped_at_its_last_epoch(grace, first):
    """The average of the last cycle is made after the last epoch's report."""
    config = TuneConfig.model_validate(
        BASE
        | {
            "schedule": {"epochs": 3, "warmup_epochs": 0},
            "csr": {"num_cycles": 2, "cycle_epochs": 1},
            "grace_epochs": grace,
        }
    )
    scheduler = search.scheduler(config)
    if first is None:
        assert isinstance(scheduler, FIFOScheduler)
    else:
        rungs = [rung for bracket in scheduler._brackets for rung, _ in bracket._rungs]
        assert min(rungs) == first and max(rungs) < config.num_epochs
        assert not scheduler._stop_last_trials


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_no_more_trials_run_at_once_than_fit(algorithm):
    """Ray Tune ignores its own limit where the trials are generated without a searcher."""
    settings = search.tune_config(TuneConfig.model_validate(BASE | {"algorithm": algorithm}), 3)
    limit = settings.search_alg.max_concurrent if algorithm == "random" else settings.max_concurrent_trials
    assert limit == 3


def test_a_sweep_with_cycles_of_different_length_knows_its_longest_trial():
    config = TuneConfig.model_validate(BASE | {"search": {"cycle_epochs": "1,20"}})
    assert config.max_epochs == 12 + 2 * 20


def test_the_grace_of_trials_that_branch_begins_after_the_shared_initial_phase():
    csr = {"num_cycles": 2, "cycle_epochs": 10}
    scheduler = search.scheduler(TuneConfig.model_validate(BASE | {"csr": csr, "soup": True, "grace_epochs": 5}))
    assert min(rung for rung, _ in scheduler._brackets[0]._rungs) == 12 + 5


def test_early_stopping_waits_for_the_peak_of_the_learning_rate():
    """Without a grace period of its own, a sweep of a recipe with a longer warm-up compares its trials later."""
    published = TuneConfig.model_validate(BASE | {"schedule": {"epochs": 60, "warmup_epochs": 10}})
    assert published.first_stop_epoch == 15
    with pytest.raises(ValueError, match=r"grace_epochs \(10\) must exceed schedule.warmup_epochs \(10\)"):
        TuneConfig.model_validate(BASE | {"schedule": {"epochs": 60, "warmup_epochs": 10}, "grace_epochs": 10})
    unstopped = {"schedule": {"epochs": 60, "warmup_epochs": 10}, "grace_epochs": 10, "early_stopping": False}
    assert TuneConfig.model_validate(BASE | unstopped).grace_epochs == 10


def test_a_trial_that_shares_starts_from_the_common_initial_phase():
    config = TuneConfig.model_validate(BASE | {"csr": {"num_cycles": 2}, "soup": True})
    trial = search.trial_config(config, "/run/trials/00000", {})
    assert trial.csr.initial_run == "/run/initial"


def test_values_of_trials_that_were_begun_are_kept(tmp_path):
    config = TuneConfig.model_validate(BASE | {"out": str(tmp_path), "num_trials": 4})
    assert search.started_trial_values(config) == []
    values = search.sample_values(config, 77)
    out = RunPaths(config.out).trial(2)
    claims.write_claim("train", search.trial_config(config, out, values), out)
    assert search.started_trial_values(config) == [
        search.sample_values(config, 0),
        search.sample_values(config, 1),
        values,
    ]


def test_a_search_without_anything_to_vary_is_refused():
    nothing = dict.fromkeys(trials.searched(TuneConfig.model_validate(BASE).search))
    with pytest.raises(ValidationError, match="nothing to vary"):
        TuneConfig.model_validate(BASE | {"search": nothing})
    with pytest.raises(ValidationError, match="nothing to vary"):
        TuneConfig.model_validate(BASE | {"csr": {"num_cycles": 0}, "search": nothing | {"cycle_epochs": "1,2"}})
