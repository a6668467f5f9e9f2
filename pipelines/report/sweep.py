"""Sections about a sweep: its trials, and the score against each searched value."""

from typing import Any

from pipelines import status
from pipelines.config.commands import StatusConfig
from pipelines.config.training import TuneConfig
from pipelines.report import charts, page, training
from pipelines.report.page import Column
from pipelines.run import result_file, run_directory
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.paths import RunPaths


def sections(uri: str, config: TuneConfig) -> training.Sections:
    """Sections about a sweep."""
    state = status.run(StatusConfig(run=uri))
    entries = list(state["trials"].values())
    best = (result_file.finished_result(uri, "tune") or {}).get("best_trial")
    found: training.Sections = [
        ("What was run", training.overview(uri, config, state)),
        ("Trials", _trials(entries, best)),
        ("Weights against score", _weights(entries)),
        ("Cycles", training.cycles(state)),
    ]
    if best is not None:
        run = RunPaths(uri).trial(int(best))
        settings = run_directory.read_config(run) or config  # with the trial's own cycle_epochs
        drawn = training.curves(settings, run_directory.read_metrics(run))
        found.append((f"Curves of the best trial, {best}", drawn))
    model = RunPaths(uri).model
    return [*found, *training.evaluations(uri), ("Exported model", training.lineage(model))]


def _trials(entries: list[dict[str, Any]], best: str | None) -> str:
    names = list(entries[0]["parameters"]) if entries else []
    columns = [
        Column("Trial"), Column("State"), Column("Epochs"), Column("Validation F1", percent=True),
        *(Column(name.replace("_", " "), digits=3) for name in names),
    ]  # fmt: skip
    rows = [
        (
            f"{entry['trial']} (best)" if entry["trial"] == best else entry["trial"],
            entry["state"],
            entry["epochs"],
            entry[VAL_MEAN_F1],
            *(float(entry["parameters"][name]) for name in names),
        )
        for entry in sorted(entries, key=lambda entry: -(entry[VAL_MEAN_F1] or 0))
    ]
    return page.table("Trials, best first", columns, rows, filtered=True) if rows else page.note("No trial started.")


def _weights(entries: list[dict[str, Any]]) -> str:
    scored = [entry for entry in entries if entry[VAL_MEAN_F1] is not None]
    drawn = []
    for name in scored[0]["parameters"] if scored else ():
        points = [(entry["parameters"][name], 100 * entry[VAL_MEAN_F1]) for entry in scored]
        text = name.replace("_", " ")
        drawn.append(charts.scatter(f"Validation mean F1, %, against {text}", points, text, "F1"))
    return f'<div class="charts">{"".join(drawn)}</div>' if any(drawn) else ""
