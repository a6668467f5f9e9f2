"""What a sweep samples, and what it makes of it, without a cluster."""

import pytest
from pydantic import ValidationError

from pipelines import trials, tune
from pipelines.config import TrainConfig, TuneConfig

BASE = {"data": "/data", "out": "/run", "csr": {"num_cycles": 2}}


def test_searched_values_take_the_place_of_the_configured_ones_and_nothing_else_changes():
    config = TuneConfig.model_validate(BASE | {"search": {"lr": [1e-4, 1e-2], "cycle_epochs": "1,8"}})
    values = {"parsing": 2.0, "binary": 0.5, "lr": 0.001, "cycle_epochs": 2.6}
    trial = tune.trial_config(config, "/run/trials/00001", values)
    assert type(trial) is TrainConfig and trial.out == "/run/trials/00001"
    assert (trial.loss.parsing, trial.loss.binary, trial.optimizer.lr, trial.csr.cycle_epochs) == (2.0, 0.5, 0.001, 3)
    assert trial.loss.category == config.loss.category and trial.csr.num_cycles == 2
    told = trials.parameters_of(config.search, trial)
    assert told["parsing"] == 2.0 and told["cycle_epochs"] == 3 and set(told) == set(tune.space(config.search))


def test_what_has_no_bounds_is_not_searched():
    config = TuneConfig.model_validate(BASE | {"search": {"binary": None}})
    assert set(tune.space(config.search)) == {"parsing", "category", "binary_attention", "category_attention"}


@pytest.mark.parametrize("bounds", ["3,1", "0,1", "1", "1,1", "a,b"])
def test_bounds_must_rise_and_be_positive(bounds):
    with pytest.raises(ValidationError):
        TuneConfig.model_validate(BASE | {"search": {"parsing": bounds}})


def test_a_trial_that_was_stopped_or_finished_stays_so(tmp_path):
    out = str(tmp_path)
    assert trials.state_of(out) == "unfinished"
    trials.stop(out)
    assert trials.state_of(out) == "stopped"
    trials.fail(out, "the loss is not finite")
    assert trials.state_of(out) == "failed" and trials.failure(out) == "the loss is not finite"
    trials.finish(out, 0.5)
    assert trials.state_of(out) == "finished" and not trials.failure(out)
