"""`status`: where a run stands, from what is on its storage; works during the run and after it, without a cluster."""

from typing import Any

from pipelines import outcome, owner, run_directory, storage
from pipelines.config import StatusConfig
from pipelines.errors import UserError
from pipelines.ledger import Ledger


def run(config: StatusConfig) -> dict[str, Any]:
    """`{"run", "state", "owner", "epochs", "num_epochs", "val_mean_f1", "trials"}`.

    `state` is finished, running (a live driver owns it), failed or interrupted. Raises UserError where there is no run.
    """
    settings = run_directory.read_config(config.run)
    if settings is None:
        raise UserError(f"{config.run} holds no run: it has no {run_directory.CONFIG}")
    history = run_directory.read_metrics(config.run)
    driver = owner.current(config.run)
    return {
        "run": config.run,
        "state": _state(config.run, driver is not None),
        "owner": driver and {"host": driver.host, "pid": driver.pid, "since": driver.since},
        "epochs": len(history),
        "num_epochs": settings.num_epochs,
        "val_mean_f1": max((record["val_mean_f1"] for record in history), default=None),
        **Ledger(config.run).summary(),
    }


def _state(run_uri: str, is_owned: bool) -> str:
    if outcome.finished_result(run_uri, "train") is not None:
        return "finished"
    if is_owned:
        return "running"
    uri = storage.join(run_uri, outcome.RESULT)
    return "failed" if storage.exists(uri) and storage.read_json(uri).get("exit_code") else "interrupted"


def summary(result: dict[str, Any]) -> str:
    best = "-" if result["val_mean_f1"] is None else f"{100 * result['val_mean_f1']:.2f} %"
    lines = [
        f"{result['run']}: {result['state']}, {result['epochs']} of {result['num_epochs']} epochs, "
        f"best validation mean F1 of a student {best}"
    ]
    if result["owner"]:
        lines.append("run by process {pid} on {host}".format(**result["owner"]))
    for name, trial in result["trials"].items():
        lines.append(
            f"trial {name}: {trial['state']}, {len(trial['ensembles'])} of {trial['num_cycles'] + 1} ensembles"
        )
        lines.append(f"  {'cycle':>5}{'student %':>12}{'ensemble %':>12}{'taught by':>12}  ensemble made of")
        for cycle, score in trial["students"].items():
            averaged = trial["ensembles"].get(cycle)
            made = ", ".join(f"{share:.2f} {who}" for who, share in trial["lineage"].get(cycle, {}).items())
            columns = f"{'-' if averaged is None else f'{100 * averaged:.2f}':>12}{_taught_by(trial, cycle):>12}"
            lines.append(f"  {cycle:>5}{100 * score:>12.2f}{columns}  {made}")
    for cycle, soup in result["soups"].items():
        lines.append(f"soup {cycle}: {100 * soup['val_mean_f1']:.2f} % from {', '.join(soup['members'])}")
    return "\n".join(lines)


def _taught_by(trial: dict[str, Any], cycle: int) -> str:
    teacher = trial["teachers"].get(cycle)
    if teacher is None:
        return "labels"
    return "itself" if teacher["soup"] is None else f"soup {teacher['soup']}"
