"""When a training that loses workers or its controller goes on, without a cluster: Ray's errors, and our counting."""

import pytest
from ray.exceptions import RayActorError
from ray.train import FailureConfig, TrainingFailedError

from pipelines.config.training import TrainConfig
from pipelines.errors import UserError, WorkersLostError
from pipelines.regulation.orchestrator import train_trial_ref
from pipelines.run import run_directory
from pipelines.training import train
from tests.support.local_training import manifest


class Done:
    """The result of a training that ended well."""

    return_value = None


class Lossy:
    """A trainer each of whose attempts does some epochs and then raises an error of Ray, or ends."""

    def __init__(self, out, script):
        self.out, self.script, self.epochs, self.attempts = out, iter(script), 0, 0

    def fit(self):
        epochs, error = next(self.script)
        self.attempts += 1
        self.epochs += epochs
        history = [{"epoch": n + 1, "time": 0.0, "val_mean_f1": 0.5} for n in range(self.epochs)]
        run_directory.write_metrics(self.out, history)
        if error is not None:
            raise error
        return Done()


WORKERS, CONTROLLER = TrainingFailedError("a worker died"), RayActorError()


@pytest.mark.parametrize(
    ("max_failures", "script", "attempts"),
    [
        (1, [(1, WORKERS), (1, WORKERS), (1, WORKERS), (0, None)], 4),
        (1, [(1, CONTROLLER), (1, CONTROLLER), (1, CONTROLLER), (0, None)], 4),
        (2, [(0, CONTROLLER), (0, CONTROLLER), (1, None)], 3),
        (1, [(1, WORKERS), (0, WORKERS)], None),
        (1, [(0, CONTROLLER), (0, CONTROLLER)], None),
        (0, [(1, WORKERS)], None),
    ],
)
def test_losses_are_counted_anew_after_an_epoch(tmp_path, monkeypatch, max_failures, script, attempts):
    out = str(tmp_path)
    config = TrainConfig(data="/data", out=out, workers={"max_failures": max_failures})
    trainer = Lossy(out, script)
    monkeypatch.setattr(train, "build_torch_trainer", lambda *_: trainer)
    if attempts is None:
        with pytest.raises(WorkersLostError, match="the same command continues"):
            train.fit(config, manifest(train=64, val=8), train_trial_ref(out))
        assert trainer.attempts == len(script)
    else:
        train.fit(config, manifest(train=64, val=8), train_trial_ref(out))
        assert trainer.attempts == attempts


def test_a_fault_of_the_input_is_not_tried_again(tmp_path, monkeypatch):
    error = TrainingFailedError("a worker failed")
    error.worker_failures = {0: UserError("the row is damaged")}
    trainer = Lossy(str(tmp_path), [(1, error)])
    monkeypatch.setattr(train, "build_torch_trainer", lambda *_: trainer)
    config = TrainConfig(data="/data", out=str(tmp_path))
    with pytest.raises(UserError, match="the row is damaged"):
        train.fit(config, manifest(train=64, val=8), train_trial_ref(str(tmp_path)))


def test_ray_counts_announced_losses_apart_and_without_limit():
    assert FailureConfig().max_preemption_failures == -1
