"""Sections about one training run and its exported model."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from dmlcsr.weights import ModelCard
from pipelines import status, storage
from pipelines.config.commands import StatusConfig
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.errors import UserError
from pipelines.models import model_directory
from pipelines.report import charts, page
from pipelines.report.page import Column, Picture
from pipelines.run import run_directory
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.paths import RunPaths
from pipelines.run.states import State
from pipelines.tuning import trials

Sections = list[tuple[str, str]]
PICTURE_BYTES = 3_500_000
"""Upper limit in bytes of a page's pictures; it keeps a page small enough to be sent as one file."""


def sections(uri: str, config: TrainConfig) -> Sections:
    """Sections about a training run."""
    state = status.run(StatusConfig(run=uri))
    history = run_directory.read_metrics(uri)
    return [
        ("What was run", overview(uri, config, state)),
        ("Curves", curves(config, history)),
        ("Cycles", cycles(state)),
        *evaluations(uri),
        ("Exported model", lineage(uri)),
    ]


def overview(uri: str, config: TrainConfig, state: Mapping[str, Any]) -> str:
    environment = RunPaths(uri).environment
    software = storage.find_json(environment) or {}
    score = state[VAL_MEAN_F1]
    searched = trials.searched(config.search) if isinstance(config, TuneConfig) else {}

    def shown(name: str, value: float) -> str:
        low, high = searched.get(name, (value, value))
        return f"{low:g}" if low == high else f"{low:g} to {high:g}"

    rate, cycle_epochs = shown("lr", config.optimizer.lr), shown("cycle_epochs", config.csr.cycle_epochs)
    in_cycles = f", then {config.csr.num_cycles} x {cycle_epochs} in cycles" if config.csr.num_cycles else ""
    weights = {name: shown(name, value) for name, value in config.loss if name != "edge_radius"}
    versions = {"python": software.get("python", "–")} | software.get("packages", {})
    text: dict[str, object] = {
        "State": state["state"],
        "Epochs": f"{state['epochs']} of {state['num_epochs']}",
        "Best validation mean F1": "–" if score is None else f"{100 * score:.2f} %",
        "Data": config.data,
        "Network": f"ResNet-{config.model.depth}, width {config.model.width:g}, {config.input.size} pixels",
        "Optimizer": f"{config.optimizer.name}, rate {rate}, batch size {config.optimizer.batch_size}",
        "Schedule": f"{config.schedule.epochs} epochs{in_cycles}",
        "Loss weights": _listed(weights),
        "Edge radius": config.loss.edge_radius,
        "Seed": config.seed,
        "Started from": config.init or "random weights",
        "Workers": f"{config.workers.num_workers}, {'each with a GPU' if config.workers.use_gpu else 'without GPUs'}",
        "Machine": software.get("platform", "–"),
        "Software": _listed(versions),
    }
    is_finished = state["state"] == State.FINISHED
    hint = "" if is_finished else page.note("This run is not finished; this is its state so far.")
    return hint + page.facts(text)


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def curves(config: TrainConfig, history: Sequence[Mapping[str, float]]) -> str:
    """Charts of validation F1, loss terms, learning rate and speed over epochs, with marks at the starts of cycles."""

    def line(key: str, factor: float = 1) -> list[tuple[float, float]]:
        return [(record["epoch"], factor * record[key]) for record in history if record.get(key) is not None]

    first = config.schedule.epochs
    marks = [first + number * config.csr.cycle_epochs for number in range(config.csr.num_cycles)]
    marks = [mark for mark in marks if history and mark <= history[-1]["epoch"]]
    keys = [key for key in (history[0] if history else ()) if key.startswith("loss_")]
    drawn = [
        charts.line_chart("Validation mean F1, %", {"student": line(VAL_MEAN_F1, 100)}, "epoch", marks),
        charts.line_chart(
            "Loss: the weighted total and the unweighted terms",
            {key[5:].replace("_", " "): line(key) for key in keys},
            "epoch",
            marks,
        ),
        charts.line_chart("Learning rate at the end of the epoch", {"rate": line("lr")}, "epoch", marks),
        charts.line_chart("Images per second", {"speed": line("images_per_second")}, "epoch", marks),
    ]
    ends = ", ".join(f"{mark}" for mark in marks)
    text = page.note(f"Numbered vertical lines mark the starts of cycles (after epoch {ends}).") if marks else ""
    return f'{text}<div class="charts">{"".join(drawn)}</div>' if any(drawn) else ""


def cycles(state: Mapping[str, Any]) -> str:
    """A table of student and ensemble scores per cycle of each trial; with one trial also a chart."""
    rows: list[tuple[page.Value, ...]] = []
    drawn = ""
    alone = len(state["trials"]) == 1
    for name, trial in state["trials"].items():
        students, ensembles = trial.get("students", {}), trial.get("ensembles", {})
        for cycle, student in students.items():
            ensemble = ensembles.get(cycle)
            made = _shares(trial["lineage"].get(cycle, {}))
            difference = None if ensemble is None else ensemble - student
            rows.append((f"{cycle}" if alone else f"{name} / {cycle}", student, ensemble, difference, made))
        if alone:
            lines = {
                who: [(float(cycle), 100 * score) for cycle, score in scores.items()]
                for who, scores in (("student", students), ("ensemble", ensembles))
            }
            drawn = charts.line_chart("Validation mean F1 at the end of each cycle, %", lines, "cycle")
    columns = [
        Column("Cycle" if alone else "Trial / cycle"), Column("Student F1", percent=True),
        Column("Ensemble F1", percent=True), Column("Difference", percent=True), Column("Ensemble made of"),
    ]  # fmt: skip
    if not rows:
        return ""
    table = page.table("Student against ensemble; cycle 0 is the initial phase", columns, rows)
    return f'<div class="charts">{drawn}</div>{table}'


def evaluations(uri: str) -> Sections:
    """Scores, confusion matrix and pictures of each evaluation in a run directory."""
    folder = RunPaths(uri).evaluations
    found = [] if storage.is_empty(folder) else [u for u in storage.list_files(folder) if u.endswith("/scores.json")]
    if not found:
        hint = f"No scores yet. To write them, run: python ray_job.py evaluate --model {uri} --data DATA"
        return [("Scores", page.note(hint))]
    result: Sections = []
    for file in found:
        result += evaluation(file.rpartition("/")[0], PICTURE_BYTES // len(found))
    return result


def evaluation(folder: str, budget: int) -> Sections:
    scores = storage.read_json(storage.join(folder, "scores.json"))
    name = folder.rpartition("/")[2]
    try:
        boundary = scores["boundary_iou_per_class"]
        rows = [(key, f1, scores["iou"][key], boundary[key]) for key, f1 in scores["f1"].items()]
        means = {
            "Mean F1": scores["mean_f1"], "Mean IoU": scores["mean_iou"],
            "Boundary IoU": scores["boundary_iou"], "Pixel accuracy": scores["pixel_accuracy"],
        }  # fmt: skip
    except KeyError as error:
        raise UserError(f"{folder}/scores.json has no {error}; run `evaluate` again") from error
    shown = {key: "–" if value is None else f"{100 * value:.2f} %" for key, value in means.items()}
    columns = [Column("Class"), *(Column(text, percent=True, bar=True) for text in ("F1", "IoU", "Boundary IoU"))]
    body = page.facts(shown | {"Images": scores["num_images"]}) + page.table(f"Scores per class, {name}", columns, rows)
    return [
        (f"Scores: {name}", body),
        (f"Confusion: {name}", confusion(storage.join(folder, "confusion.csv"))),
        (f"Best and worst images: {name}", pictures(folder, scores, budget)),
    ]


def confusion(uri: str) -> str:
    data = storage.find_bytes(uri)
    if data is None:
        return ""
    names, *rows = csv.reader(io.StringIO(data.decode()))
    counts = [[int(value) for value in row[1:]] for row in rows]
    return page.heat_map("Rows: truth; columns: prediction; percent of the truth's pixels", names[1:], counts)


def pictures(folder: str, scores: Mapping[str, Any], budget: int) -> str:
    """Galleries of the best and the worst images, which `evaluate` has drawn and ranked."""
    overlays = storage.join(folder, "overlays")
    uris = [] if storage.is_empty(overlays) else storage.list_files(overlays)
    if not uris:
        return ""
    ranked = {kind: scores[kind] for kind in ("best", "worst")} if "best" in scores else _ranking_of_0_1(folder)
    shown: dict[str, list[Picture]] = {"best": [], "worst": []}
    for uri, data in zip(uris, storage.read_many(uris), strict=True):
        kind, _, number = uri.rpartition("/")[2].removesuffix(".png").partition("-")
        if isinstance(data, bytes):
            image = ranked[kind][int(number) - 1]
            caption = f"{image['id']}, mean F1 {100 * float(image['mean_f1']):.2f} %"
            alt = f"{kind} {int(number)}, {caption}: image, truth, prediction and errors side by side"
            shown[kind].append(Picture(data, alt, caption))
    galleries = "".join(
        f"<h3>{kind.capitalize()}</h3>{page.gallery(kind, chosen, budget // 2)}" for kind, chosen in shown.items()
    )
    return page.note("From left to right: image, truth, prediction, and in red the wrong pixels.") + galleries


def _ranking_of_0_1(folder: str) -> Mapping[str, Any]:
    """The best and the worst images by the table of all images that release 0.1 wrote."""
    best = list(csv.DictReader(io.StringIO(storage.read_bytes(storage.join(folder, "images.csv")).decode())))
    return {"best": best, "worst": best[::-1]}


def lineage(uri: str) -> str:
    """The origin of the exported weights."""
    try:
        card: ModelCard = model_directory.read_card(uri)
    except UserError:
        return page.note("No model was exported yet.")
    made, epoch, cycle, teachers = (card.lineage.get(key) for key in ("coefficients", "epoch", "cycle", "teachers"))
    origin = f"ensemble of cycle {cycle}" if epoch is None else f"student of epoch {epoch}"
    taught = [f"cycle {number} by {_shares(teacher['coefficients'])}" for number, teacher in (teachers or {}).items()]
    return page.facts(
        {
            "Weights": origin,
            "Shares": _shares(made) if made else "one student",
            "Taught": "; ".join(taught) or "by no model of this run",
            "Validation mean F1": f"{100 * card.metrics.get(VAL_MEAN_F1, float('nan')):.2f} %",
            "Run": card.lineage.get("run", "–"),
            "Data": card.lineage.get("data", "–"),
            "Data digest": str(card.lineage.get("data_digest", "–"))[:16],
            "Data it has learned from": ", ".join(str(digest)[:16] for digest in card.lineage.get("origins", ()))
            or "–",
            "SHA-256 of the weights": model_directory.weights_digest(uri),
        }
    )


def _shares(coefficients: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.2f} {who}" for who, share in coefficients.items())
