"""`evaluate` scores a model on a split. Actors predict at the labels' resolution and return counts, no label maps."""

import csv
import io
import json
import logging
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypedDict, cast

import cv2
import numpy as np

from dmlcsr.metrics import Counts, Scores, scores
from dmlcsr.predict import ParserCard, Predictor
from pipelines import storage
from pipelines.config.commands import EvaluateConfig
from pipelines.data import dataset, images, packing, row_groups, stream
from pipelines.data.dataset import Manifest
from pipelines.data.images import encode_png
from pipelines.data.packing import SampleProblem
from pipelines.data.row_groups import SplitFiles
from pipelines.data.stream import Columns
from pipelines.errors import UserError
from pipelines.inference.overlay import comparison
from pipelines.models import model_directory, parsers, scoring
from pipelines.models.actors import ModelActor, map_batches_options, needs
from pipelines.run import claims
from pipelines.run.paths import RunPaths
from pipelines.run.progress import log_count
from pipelines.run.session import ray_session

logger = logging.getLogger(__name__)
SCORES = "scores.json"


class ImageScore(NamedTuple):
    """The mean F1 of one image over the classes that it shows. `row` is its number in the split."""

    mean_f1: float
    row: int
    id: str


class ScoreActor(ModelActor):
    """Turns a batch of decoded rows into one row: its counts, the score of each image, and the rows left out."""

    def __call__(self, batch: Columns) -> Columns:
        taxonomy = self.predictor.taxonomy
        total = Counts(taxonomy.num_classes)
        scored = []
        for index, counts in scoring.image_counts(self.predictor, batch):
            total += counts
            row, name = int(batch["row"][index]), str(batch["id"][index])
            scored.append(ImageScore(scores(counts, taxonomy).mean_f1 or 0.0, row, name))
        problems = zip(batch["id"], batch["reason"], batch["detail"], strict=True)
        bad = [SampleProblem(source=name, reason=reason, detail=detail) for name, reason, detail in problems if reason]
        answer = {"counts": total.to_dict(), "images": scored, "bad": bad}
        return {"answer": np.array([json.dumps(answer)], object)}


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
    manifest = dataset.read_manifest(config.data)
    parser, card = parsers.read_parser(config.model)
    model_directory.require_taxonomy(config.model, card, config.data, manifest.taxonomy)
    source = row_groups.open_split(config.data, manifest, config.split)
    if source.num_rows == 0:
        raise UserError(f"{config.data} has no {config.split} rows")
    out = config.out or default_out(config, manifest)
    with claims.claim_anew("evaluate", config, out):
        with ray_session(needs(config.actors), [dataset.manifest_uri(config.data)]):
            counts, ranking, bad = score_split(config, source, card)
        write_bad_rows(out, config, source, bad)
        result = as_result(scores(counts, manifest.taxonomy))
        write_outputs(out, config, {**result, "num_bad_rows": len(bad)}, counts, ranking)
        predictor = Predictor(parser, card, "cpu", config.tta)
        write_overlays(out, config.num_overlays, source, predictor, ranking)
    return {**result, "num_bad_rows": len(bad), "out": out}


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


def score_split(
    config: EvaluateConfig, source: SplitFiles, card: ParserCard
) -> tuple[Counts, list[ImageScore], list[SampleProblem]]:
    """Returns the counts of the whole split, the score of each image, best first, and the rows that were left out."""
    rows = stream.ordered_rows(source, card.preprocessing, num_tasks=None)
    arguments = {"model": config.model, "use_gpu": config.actors.use_gpu, "tta": config.tta}
    answers = rows.map_batches(ScoreActor, fn_constructor_kwargs=arguments, **map_batches_options(config.actors))
    counts = Counts(card.taxonomy.num_classes)
    ranking: list[ImageScore] = []
    bad: list[SampleProblem] = []
    for row in answers.iter_rows():
        answer = json.loads(row["answer"])
        counts += Counts.from_dict(answer["counts"])
        ranking += [ImageScore(*image) for image in answer["images"]]
        bad += answer["bad"]
        done = len(ranking) + len(bad)
        log_count(f"scored {done} of {source.num_rows} images", done, source.num_rows)
    return counts, sorted(ranking, reverse=True), bad


def write_bad_rows(out: str, config: EvaluateConfig, source: SplitFiles, bad: list[SampleProblem]) -> None:
    """Lists the rows that were left out. Raises UserError if no row is left."""
    packing.write_problems(out, packing.QUARANTINE, bad)
    if not bad:
        return
    share = f"{len(bad)} of the {source.num_rows} {config.split} rows of {config.data} cannot be used"
    if len(bad) == source.num_rows:
        raise UserError(f"{share}; one of them: {packing.in_words(bad[0])}; {out}/{packing.QUARANTINE} lists them")
    logger.warning(
        "%s and are left out; one of them: %s; %s/%s lists them",
        share,
        packing.in_words(bad[0]),
        out,
        packing.QUARANTINE,
    )


def write_outputs(
    out: str, config: EvaluateConfig, result: Mapping[str, Any], counts: Counts, ranking: list[ImageScore]
) -> None:
    """Writes `scores.json`, `confusion.csv` (rows: truth, columns: prediction) and `images.csv`, best image first."""
    header = {"model": config.model, "data": config.data, "split": config.split, "tta": config.tta}
    storage.write_json(storage.join(out, SCORES), {**header, **result})
    names = list(result["f1"])
    rows = [["", *names], *([name, *map(str, row)] for name, row in zip(names, counts.confusion, strict=True))]
    _write_csv(storage.join(out, "confusion.csv"), rows)
    _write_csv(
        storage.join(out, "images.csv"),
        [["id", "mean_f1"], *([image.id, f"{image.mean_f1:.6f}"] for image in ranking)],
    )


def _write_csv(uri: str, rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    storage.write_bytes(uri, text.getvalue().encode())


def write_overlays(out: str, num: int, source: SplitFiles, predictor: Predictor, ranking: list[ImageScore]) -> None:
    """Writes `overlays/{best,worst}-NN.png`: image, truth, prediction and errors of the `num` best and worst images."""
    best, worst = ranking[:num], ranking[::-1][:num]
    for kind, chosen in (("best", best), ("worst", worst)):
        for number, image in enumerate(chosen, start=1):
            picture = _picture(source, predictor, image.row)
            storage.write_bytes(storage.join(out, "overlays", f"{kind}-{number:02d}.png"), picture)


def _picture(source: SplitFiles, predictor: Predictor, number: int) -> bytes:
    pieces = row_groups.locate_rows(source, None, 0, number, number + 1)
    (row,) = row_groups.read_rows(source, pieces, ("image", "label"))
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
