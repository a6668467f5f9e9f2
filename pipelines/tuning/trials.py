"""The trials of a sweep on storage: each has a run directory of its own below `<run>/trials/`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

from pipelines import storage
from pipelines.config.training import SearchConfig, TrainConfig, TuneConfig
from pipelines.errors import DataSetError, RunFailedError, StorageFailedError, UserError
from pipelines.run import result_file, run_directory
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.paths import RunPaths, trial_name
from pipelines.run.states import State, state_of
from pipelines.training.train import TrialResult


class TrialSummary(TypedDict):
    """State and score of a training."""

    trial: str
    run: str
    state: State
    epochs: int
    """Epochs that are done."""
    val_mean_f1: float | None
    """The best validation mean F1 so far, 0 to 1; None before the first epoch."""


class SweepTrial(TrialSummary):
    """State, score and sampled parameters of a trial of a sweep."""

    num_epochs: int
    """Epochs that the trial has when it is finished."""
    parameters: dict[str, float]


def mark_finished(out: str, result: TrialResult) -> None:
    """Marks a trial as finished. A sweep that is continued does not repeat it."""
    result_file.write("train", out, result, 0, "done")


def mark_failed(out: str, error: UserError | RunFailedError) -> None:
    """Marks a trial as failed with an error sentence. A sweep that is continued tries it again."""
    is_shared = isinstance(error, DataSetError | StorageFailedError)
    result_file.write("train", out, None, 2 if is_shared else 1, str(error))


def mark_stopped(out: str) -> None:
    """Marks a trial as stopped early."""
    storage.write_json(RunPaths(out).stopped, {})


def failure(out: str) -> str:
    """The error sentence of a failed trial, or "" if it did not fail."""
    ended = result_file.read(out)
    return str(ended["message"]) if ended.get("exit_code") else ""


def shared_fault(out: str) -> str | None:
    """The error sentence of a trial that failed by the data set or the storage, which all trials share; else None."""
    return failure(out) if result_file.read(out).get("exit_code") == 2 else None


def searched(config: SearchConfig) -> dict[str, tuple[float, float]]:
    """The names of the values that a sweep varies, with their bounds (low, high)."""
    return {name: bounds for name, bounds in config if bounds is not None}


def parameters_of(config: SearchConfig, trial: TrainConfig) -> dict[str, float]:
    """The searched values of a trial."""
    values = trial.loss.model_dump() | {"lr": trial.optimizer.lr, "cycle_epochs": trial.csr.cycle_epochs}
    return {name: values[name] for name in searched(config)}


@contextmanager
def prefetched(config: TuneConfig) -> Iterator[None]:
    """Reads what this module and `status` read of the trials at once, not file by file in the `with` block."""
    paths = [RunPaths(RunPaths(config.out).trial(number)) for number in range(config.num_trials)]
    with storage.prefetched([uri for path in paths for uri in (path.claim, path.result, path.metrics)]):
        rest = [path for path in paths if result_file.read(path.run).get("exit_code") is None]
        with storage.prefetched([uri for path in rest for uri in (path.stopped, path.phases)]):
            yield


def trial_summary(out: str, name: str) -> TrialSummary:
    """Reads state and score of the training in the run directory `out`."""
    history = run_directory.read_metrics(out)
    best = max((record[VAL_MEAN_F1] for record in history), default=None)
    score = (result_file.finished_result(out, "train") or {}).get(VAL_MEAN_F1, best)
    return {"trial": name, "run": out, "state": state_of(out), "epochs": len(history), VAL_MEAN_F1: score}


def trial_summaries(config: TuneConfig) -> list[SweepTrial]:
    """Reads state, score and parameters of each trial that has begun."""
    entries: list[SweepTrial] = []
    for number in range(config.num_trials):
        out = RunPaths(config.out).trial(number)
        trial = run_directory.read_config(out)
        if trial is not None:
            parameters = parameters_of(config.search, trial)
            summary = trial_summary(out, trial_name(number))
            entries.append({**summary, "num_epochs": trial.num_epochs, "parameters": parameters})
    return entries


def as_text(entries: Sequence[SweepTrial]) -> str:
    """A table of trials for a terminal, best score first."""
    lines = [f"{'trial':<8}{'state':<13}{'epochs':>7}{'validation %':>14}  parameters"]
    for entry in sorted(entries, key=lambda entry: -(entry[VAL_MEAN_F1] or 0)):
        score = "-" if entry[VAL_MEAN_F1] is None else f"{100 * entry[VAL_MEAN_F1]:.2f}"
        values = ", ".join(f"{name} {value:.3g}" for name, value in entry["parameters"].items())
        lines.append(f"{entry['trial']:<8}{entry['state']:<13}{entry['epochs']:>7}{score:>14}  {values}")
    return "\n".join(lines)
