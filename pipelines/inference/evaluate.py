"""`evaluate` scores a model on a split. Actors predict at the labels' resolution and return counts, no label maps."""

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, TypedDict, cast

import cv2
import numpy as np

from dmlcsr.metrics import Counts, Scores, scores
from dmlcsr.predict import ParserCard, Predictor
from pipelines import storage
from pipelines.config.commands import EvaluateConfig
from pipelines.data import dataset, images, packing, row_groups
from pipelines.data.dataset import Manifest
from pipelines.data.decode_tasks import Columns
from pipelines.data.images import encode_png
from pipelines.data.ordered import OrderedRows
from pipelines.data.packing import SampleProblem
from pipelines.data.row_groups import SplitFiles
from pipelines.errors import UserError
from pipelines.inference.image_scores import Extremes, ImageScore, PartWriter, ScoredRow
from pipelines.inference.overlay import comparison
from pipelines.models import model_directory, parsers, scoring
from pipelines.models.actors import ModelActor, map_batches_options, needs
from pipelines.run import claims
from pipelines.run.paths import RunPaths
from pipelines.run.progress import log_count
from pipelines.run.session import ray_session

logger = logging.getLogger(__name__)
SCORES = "scores.json"
MAX_LISTED = 10_000
"""Maximum number of rows in the table of those that were left out. The scores of the images name all of them."""


class ScoreActor(ModelActor):
    """Turns a batch of decoded rows into one row: its counts, the scored rows, and the problems of those left out."""

    def __call__(self, batch: Columns) -> Columns:
        taxonomy = self.predictor.taxonomy
        total = Counts(taxonomy.num_classes)
        mean_f1: dict[int, float] = {}
        for index, counts in scoring.image_counts(self.predictor, batch):
            total += counts
            mean_f1[index] = scores(counts, taxonomy).mean_f1 or 0.0
        found = list(zip(batch["row"].tolist(), batch["id"], batch["reason"], batch["detail"], strict=True))
        rows = [
            ScoredRow(row=row, id=name, mean_f1=mean_f1.get(index), reason=reason)
            for index, (row, name, reason, _) in enumerate(found)
        ]
        bad = [SampleProblem(source=name, reason=reason, detail=detail) for _, name, reason, detail in found if reason]
        answer = {"counts": total.to_dict(), "rows": rows, "bad": bad}
        return {"answer": np.array([json.dumps(answer)], object)}


class SplitTally:
    """The counts of a split, its best and worst images, and the rows that were left out, at most MAX_LISTED of them."""

    def __init__(self, num_classes: int, num_extremes: int) -> None:
        self.counts = Counts(num_classes)
        self.extremes = Extremes(num_extremes)
        self.num_bad = 0
        self.bad: list[SampleProblem] = []

    def add(self, counts: Counts, rows: Sequence[ScoredRow], bad: Sequence[SampleProblem]) -> None:
        self.counts += counts
        self.extremes.add(
            ImageScore(row["mean_f1"], row["row"], row["id"]) for row in rows if row["mean_f1"] is not None
        )
        self.num_bad += len(bad)
        self.bad += bad[: MAX_LISTED - len(self.bad)]


class SplitScores(TypedDict):
    """The scores of a split under their names in `scores.json`: fractions 0 to 1, None if a class is absent."""

    num_images: int
    pixel_accuracy: float | None
    mean_f1: float | None
    mean_iou: float | None
    boundary_iou: float | None
    """The mean over the classes."""
    overall: float | None
    f1: dict[str, float | None]
    iou: dict[str, float | None]
    boundary_iou_per_class: dict[str, float | None]
    overall_f1: dict[str, float | None]


class EvaluateResult(SplitScores):
    """The result of `evaluate`."""

    num_bad_rows: int
    """Number of rows that could not be used: damaged ones, and rows without a label."""
    out: str


def run(config: EvaluateConfig) -> EvaluateResult:
    """Scores the split, and writes scores, confusion matrix and overlays."""
    manifest = dataset.read_manifest(config.data, config.base)
    parser, card = parsers.read_parser(config.model)
    model_directory.require_taxonomy(config.model, card, config.data, manifest.taxonomy)
    source = row_groups.open_split(config.data, manifest, config.split)
    if source.num_rows == 0:
        raise UserError(f"{config.data} has no {config.split} rows")
    out = config.out or default_out(config, manifest)
    with claims.claim_anew("evaluate", config, out):
        with ray_session(needs(config.actors), manifest.inputs(config.data)):
            tally = score_split(config, source, card, PartWriter(out, source.num_rows))
        write_bad_rows(out, config, source, tally)
        result = as_result(scores(tally.counts, manifest.taxonomy))
        write_outputs(out, config, {**result, "num_bad_rows": tally.num_bad}, tally)
        write_overlays(out, source, Predictor(parser, card, "cpu", config.tta), tally.extremes)
    return {**result, "num_bad_rows": tally.num_bad, "out": out}


def as_result(measured: Scores) -> SplitScores:
    """The scores under their names in `scores.json`."""
    values = measured.to_dict()
    values["boundary_iou_per_class"] = values.pop("boundary_iou")
    values["boundary_iou"] = values.pop("mean_boundary_iou")
    return cast(SplitScores, values)


def default_out(config: EvaluateConfig, manifest: Manifest) -> str:
    """The output without `--out`: `<run>/evaluation/<data>-<digest>-<split>`, beside the model directory.

    The first digits of the data set's digest distinguish data sets of one name in different places. With test-time
    averaging `-tta` is appended.
    """
    data = f"{PurePosixPath(config.data).name}-{manifest.digest[:8]}"
    name = f"{data}-{config.split}{'-tta' if config.tta else ''}"
    return storage.join(RunPaths(parsers.home(config.model)).evaluations, name)


def score_split(config: EvaluateConfig, source: SplitFiles, card: ParserCard, parts: PartWriter) -> SplitTally:
    """Scores the whole split, and writes the scores of its images as they come."""
    rows = OrderedRows(source=source, preprocessing=card.preprocessing).ray_dataset()
    arguments = {"model": config.model, "use_gpu": config.actors.use_gpu, "tta": config.tta}
    answers = rows.map_batches(ScoreActor, fn_constructor_kwargs=arguments, **map_batches_options(config.actors))
    tally = SplitTally(card.taxonomy.num_classes, config.num_overlays)
    for row in answers.iter_rows():
        answer = json.loads(row["answer"])
        tally.add(Counts.from_dict(answer["counts"]), answer["rows"], answer["bad"])
        parts.add(answer["rows"])
        done = tally.counts.num_images + tally.num_bad
        log_count(f"scored {done} of {source.num_rows} images", done, source.num_rows)
    return tally


def write_bad_rows(out: str, config: EvaluateConfig, source: SplitFiles, tally: SplitTally) -> None:
    """Lists the rows that were left out. Raises UserError if no row is left."""
    # The rows come in any order; one of them is named in the message.
    bad = sorted(tally.bad, key=lambda problem: problem["source"])
    packing.write_problems(out, packing.QUARANTINE, bad)
    if not bad:
        return
    share = f"{tally.num_bad} of the {source.num_rows} {config.split} rows of {config.data} cannot be used"
    if tally.num_bad == source.num_rows:
        raise UserError(f"{share}; one of them: {packing.in_words(bad[0])}; {out}/{packing.QUARANTINE} lists them")
    logger.warning(
        "%s and are left out; one of them: %s; %s/%s lists them",
        share,
        packing.in_words(bad[0]),
        out,
        packing.QUARANTINE,
    )


def write_outputs(out: str, config: EvaluateConfig, result: Mapping[str, Any], tally: SplitTally) -> None:
    """Writes `scores.json`, with the best and the worst images, and `confusion.csv` (rows: truth, columns: prediction).

    The best image comes first among the best, the worst among the worst.
    """
    header = {"model": config.model, "data": config.data, "split": config.split, "tta": config.tta}
    extremes = {
        kind: [image._asdict() for image in images]
        for kind, images in (("best", tally.extremes.best), ("worst", tally.extremes.worst))
    }
    storage.write_json(storage.join(out, SCORES), {**header, **result, **extremes})
    names = list(result["f1"])
    rows = [["", *names], *([name, *map(str, row)] for name, row in zip(names, tally.counts.confusion, strict=True))]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    storage.write_bytes(storage.join(out, "confusion.csv"), text.getvalue().encode())
    storage.delete(storage.join(out, "images.csv"))  # that of an earlier evaluation by release 0.1


def write_overlays(out: str, source: SplitFiles, predictor: Predictor, extremes: Extremes) -> None:
    """Writes `overlays/{best,worst}-NN.png`: image, truth, prediction and errors of the best and worst images."""
    for kind, chosen in (("best", extremes.best), ("worst", extremes.worst)):
        for number, image in enumerate(chosen, start=1):
            picture = _picture(source, predictor, image.row)
            storage.write_bytes(storage.join(out, "overlays", f"{kind}-{number:02d}.png"), picture)


def _picture(source: SplitFiles, predictor: Predictor, number: int) -> bytes:
    (row,) = row_groups.read_rows(source, source.groups.locate(number, number + 1), ("image", "label"))
    image, label = images.decode_image(row["image"]), images.decode_label(row["label"])
    predicted = predictor.label_map(image)
    large = cv2.resize(label, predicted.shape[::-1], interpolation=cv2.INTER_NEAREST)
    wrong = (large != predicted) & (large < predictor.taxonomy.num_classes)
    return encode_png(comparison(image, label, predicted, wrong, predictor.taxonomy))


def table(result: SplitScores) -> str:
    """Formats the scores per class, in percent, as a table for the terminal."""
    lines = [f"{'class':<16}{'F1 %':>8}{'IoU %':>8}{'boundary %':>12}"]
    for name in result["f1"]:
        values = (result["f1"][name], result["iou"][name], result["boundary_iou_per_class"][name])
        lines.append(f"{name:<16}" + "".join(_percent(v, w) for v, w in zip(values, (8, 8, 12), strict=True)))
    return "\n".join(lines)


def _percent(value: float | None, width: int) -> str:
    return f"{'-' if value is None else format(100 * value, '.2f'):>{width}}"


def summary(result: EvaluateResult) -> str:
    found = {
        "mean F1": result["mean_f1"],
        "mean IoU": result["mean_iou"],
        "boundary IoU": result["boundary_iou"],
        "pixel accuracy": result["pixel_accuracy"],
        "overall": result["overall"],
    }
    means = [f"{name} {100 * value:.2f} %" for name, value in found.items() if value is not None]
    means.append(f"{result['num_images']} images")
    if result["num_bad_rows"]:
        means.append(f"{result['num_bad_rows']} rows left out")
    return f"{table(result)}\n{', '.join(means)}\nscores, confusion matrix and overlays are in {result['out']}"
