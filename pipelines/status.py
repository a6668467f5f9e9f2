"""`status`: the state of a run or a sweep. It only reads the storage, so it needs no cluster."""

from contextlib import nullcontext
from typing import Any, TypedDict, cast

from pipelines.config.commands import StatusConfig
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.data import bad_rows
from pipelines.errors import UserError
from pipelines.regulation.ledger import Ledger
from pipelines.run import lock, phases, run_directory
from pipelines.run.lock import Owner
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.paths import INITIAL_TRIAL, RunPaths
from pipelines.run.states import State, state_of
from pipelines.run.waiting import minutes
from pipelines.tuning import trials
from pipelines.tuning.trials import SweepTrial


class OwnerStatus(TypedDict):
    """The driver that works on a run."""

    host: str
    pid: int
    since: float
    """Unix time, by the driver's clock."""


class Progress(TypedDict):
    """The present phase of a trial, and the rows that it leaves out. Unknown values are None."""

    phase: str | None
    phase_seconds: float | None
    """Time in the phase; it compares the clock of this machine with that of the machine that wrote the time."""
    seconds_since_epoch: float | None
    """Time since the last epoch ended, with the same clocks."""
    num_bad_rows: int
    """Number of training and validation rows that cannot be used."""


class StatusResult(TypedDict):
    """The result of `status`."""

    run: str
    command: str
    state: State
    owner: OwnerStatus | None
    epochs: int
    """Finished epochs; for a sweep, those of all trials."""
    num_epochs: int
    val_mean_f1: float | None
    initial: dict[str, Any] | None
    """The initial run that the trials of a sweep share."""
    trials: dict[str, dict[str, Any]]
    """`TrialSummary` or `SweepTrial`, `Progress` and, with cycles, `Ledger.summary` of each trial."""
    soups: dict[int, dict[str, Any]]


def run(config: StatusConfig) -> StatusResult:
    """Reads the state of the run. Raises UserError if there is no run."""
    settings = run_directory.read_config(config.run)
    if settings is None:
        raise UserError(f"{config.run} holds no run")
    driver = lock.current_owner(config.run)
    with trials.prefetched(settings) if isinstance(settings, TuneConfig) else nullcontext():
        return _read(config, settings, driver)


def _read(config: StatusConfig, settings: TrainConfig, driver: Owner | None) -> StatusResult:
    earlier = state_of(config.run)
    ledger = Ledger(config.run).summary()
    initial, entries = None, list[dict[str, Any]]()
    if isinstance(settings, TuneConfig):
        out = RunPaths(config.run).initial_run
        initial = dict(trials.trial_summary(out, INITIAL_TRIAL)) if run_directory.read_config(out) else None
        command, begun = "tune", trials.trial_summaries(settings)
        missing = (settings.num_trials - len(begun)) * settings.num_epochs
        num_epochs = missing + sum(entry["num_epochs"] for entry in begun)
        entries += map(dict, begun)
    else:
        command, num_epochs = "train", settings.num_epochs
        entries.append(dict(trials.trial_summary(config.run, "train")))
    state = State.RUNNING if driver and earlier is not State.FINISHED else earlier.with_driver(False)
    for entry in [*entries, initial] if initial else entries:
        entry["state"] = State(entry["state"]).with_driver(driver is not None)
        entry |= _progress(entry["run"], entry["state"])
    return {
        "run": config.run,
        "command": command,
        "state": state,
        "owner": None if driver is None else {"host": driver.host, "pid": driver.pid, "since": driver.started_at},
        "epochs": sum(entry["epochs"] for entry in entries),
        "num_epochs": num_epochs,
        VAL_MEAN_F1: max((entry[VAL_MEAN_F1] for entry in entries if entry[VAL_MEAN_F1] is not None), default=None),
        "initial": initial,
        "trials": {entry["trial"]: ledger["trials"].get(entry["trial"], {}) | entry for entry in entries},
        "soups": ledger["soups"],
    }


def _progress(run: str, state: State) -> Progress:
    is_over = state not in (State.RUNNING, State.INTERRUPTED)
    latest = None if is_over else next(reversed(phases.read(run)), None)
    history = run_directory.read_metrics(run)
    return {
        "phase": state if is_over else latest and latest.text,
        "phase_seconds": None if latest is None else phases.ago(latest.began),
        "num_bad_rows": bad_rows.count_records(run),
        "seconds_since_epoch": phases.ago(history[-1]["time"]) if history else None,
    }


def _progress_line(trial: dict[str, Any]) -> str:
    """A sentence with the present phase of a trial and the time since its last epoch ended."""
    since = trial["phase_seconds"]
    doing = trial["phase"] or "phase unknown"
    doing += "" if since is None else f" for {minutes(since)} min"
    epoch = trial["seconds_since_epoch"]
    last = "no epoch is done" if epoch is None else f"the last epoch ended {minutes(epoch)} min ago"
    return f"trial {trial['trial']}: {doing}; {last}"


def summary(result: StatusResult) -> str:
    """The text of `status` for a terminal: a line for the run, a table of trials, the phases, cycles and soups."""
    best = "-" if result[VAL_MEAN_F1] is None else f"{100 * result[VAL_MEAN_F1]:.2f} %"
    lines = [
        f"{result['run']} ({result['command']}): {result['state']}, {result['epochs']} of {result['num_epochs']} "
        f"epochs, best validation mean F1 {best}"
    ]
    if result["owner"]:
        lines.append("run by process {pid} on {host}".format(**result["owner"]))
    if result["command"] == "tune":
        lines.append(trials.as_text(cast(list[SweepTrial], list(result["trials"].values()))))
    trials_and_initial = [result["initial"], *result["trials"].values()]
    lines += [_progress_line(trial) for trial in trials_and_initial if trial and trial["state"] == "running"]
    for name, trial in result["trials"].items():
        if trial["num_bad_rows"]:
            lines.append(
                f"trial {name}: {trial['num_bad_rows']} rows cannot be used; {trial['run']}/bad_rows lists them"
            )
        if trial.get("students"):
            lines += _cycles(name, trial)
    for cycle, soup in result["soups"].items():
        lines.append(f"soup {cycle}: {100 * soup[VAL_MEAN_F1]:.2f} % from {', '.join(soup['members'])}")
    return "\n".join(lines)


def _cycles(name: str, trial: dict[str, Any]) -> list[str]:
    """The lines of a table with the cycles of one trial."""
    lines = [f"trial {name}: {trial['state']}, {len(trial['ensembles'])} of {trial['num_cycles'] + 1} ensembles"]
    lines.append(f"  {'cycle':>5}{'taught by':>12}{'student %':>12}{'ensemble %':>12}  ensemble made of")
    for cycle, score in trial["students"].items():
        averaged = trial["ensembles"].get(cycle)
        made = ", ".join(f"{share:.2f} {who}" for who, share in trial["lineage"].get(cycle, {}).items())
        ensemble = "-" if averaged is None else f"{100 * averaged:.2f}"
        lines.append(f"  {cycle:>5}{_taught_by(trial, cycle):>12}{100 * score:>12.2f}{ensemble:>12}  {made}")
    return lines


def _taught_by(trial: dict[str, Any], cycle: int) -> str:
    if cycle not in trial["teachers"]:
        return "labels"
    soup = trial["teachers"][cycle]
    return "ensemble" if soup is None else f"soup {soup}"
