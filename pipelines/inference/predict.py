"""`predict` writes label maps, overlays and cut-outs for images that are not in a data set.

One actor labels each piece of the photos, and writes a receipt. After a kill, the same command continues with the
pieces that have no receipt.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

from dmlcsr.predict import to_canvas
from dmlcsr.taxonomy import Taxonomy
from pipelines import storage
from pipelines.config.base import Split
from pipelines.config.commands import PredictConfig
from pipelines.data import packing
from pipelines.data.images import encode_png
from pipelines.data.packing import SampleProblem, Shard
from pipelines.errors import UserError
from pipelines.inference.overlay import cutouts, overlay, with_legend
from pipelines.inference.photos import Photo, output_names, read_photos, remarks
from pipelines.ingest import raw_files
from pipelines.ingest.formats import IMAGE_SUFFIXES
from pipelines.models import parsers
from pipelines.models.actors import ModelActor, map_options, needs
from pipelines.run import claims
from pipelines.run.progress import log_count
from pipelines.run.session import ray_session

logger = logging.getLogger(__name__)
CLASSES = "classes.json"
MAY_DIFFER = ("actors",)
"""Options that change no result and may differ when the command is repeated."""
PIECE_PHOTOS = 64
"""Largest number of photos in a piece, which is the work that is done again after a kill."""
MIN_PIECES = 16
"""Number of pieces of a small folder, so that several actors have work."""
PLAN_PIECES = 1000
"""Number of pieces that Ray Data is given at once."""
_SPLIT: Split = "test"  # receipts are named by split and number; photos belong to no split, so any name will do


class LabelActor(ModelActor):
    """Writes the pictures of each photo of a piece; returns the photos that could not be used, with the reasons."""

    def __init__(self, config: PredictConfig) -> None:
        super().__init__(config.model, config.actors.use_gpu, config.tta)
        self.config = config

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return packing.run_once(self.config.out, row, self.label)

    def label(self, shard: Shard) -> dict[str, Any]:
        """Labels the photos of a piece, batch by batch. Raises UserError if the storage fails."""
        rejected: list[SampleProblem] = []
        size = self.config.actors.batch_size
        for start in range(0, len(shard.work), size):
            photos, bad = read_photos(self.config.images, shard.work[start : start + size])
            if photos:
                self._write(photos)
            rejected += bad
        return {"rejected": rejected, "num_photos": len(shard.work)}

    def _write(self, photos: Sequence[Photo]) -> None:
        taxonomy = self.predictor.taxonomy
        canvases = np.stack([to_canvas(photo.pixels, self.predictor.preprocessing) for photo in photos])
        labels = self.predictor.label_maps(canvases, [photo.pixels.shape[:2] for photo in photos])
        for (name, image), label in zip(photos, labels, strict=True):
            pictures = {
                f"labels/{name}": label,
                f"colors/{name}": taxonomy.colorize(label),
                f"overlays/{name}": with_legend(overlay(image, label, taxonomy), [label], taxonomy),
            }
            if self.config.cutouts:
                parts = cutouts(image, label, taxonomy)
                pictures |= {f"cutouts/{name}/{part}": picture for part, picture in parts.items()}
            for path, picture in pictures.items():
                storage.write_bytes(storage.join(self.config.out, f"{path}.png"), encode_png(picture))


class PredictResult(TypedDict):
    """The result of `predict`."""

    out: str
    num_images: int
    """Images that were labelled."""
    num_quarantined: int
    """Images that could not be used."""
    reasons: dict[str, int]
    """Number of these images by reason."""
    remarks: dict[str, int]
    """Number of remarks about labelled images, by reason."""


def run(config: PredictConfig) -> PredictResult:
    """Writes `labels/<name>.png` (uint8 ids at the image's size), `colors/`, `overlays/` and `classes.json`.

    With `cutouts` it also writes `cutouts/<name>/<class>.png` for each visible part: its bounding box, in RGBA.

    Images that cannot be used are listed in `quarantine/`, and the others are processed. Raises UserError if no image
    can be used.
    """
    _, card = parsers.read_parser(config.model)
    uris = raw_files.list_images(config.images)
    if not uris:
        raise UserError(f"{config.images} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    inputs = {"model": parsers.digest(config.model)}
    names = output_names(config.images, uris)
    with claims.claim_output("predict", config, config.out, inputs, MAY_DIFFER) as claimed:
        with ray_session(needs(claimed.config.actors), [config.images]):
            rejected = label_all(claimed.config, list(zip(uris, names, strict=True)))
        storage.write_json(storage.join(config.out, CLASSES), class_table(card.taxonomy))
        packing.write_problems(config.out, packing.QUARANTINE, rejected)
        renamed = remarks(config.images, uris, names)
        packing.write_problems(config.out, packing.REMARKS, renamed)
    num_images = len(uris) - len(rejected)
    if num_images == 0:
        raise UserError(f"no image in {config.images} could be used; the first: {packing.in_words(rejected[0])}")
    return {
        "out": config.out,
        "num_images": num_images,
        "num_quarantined": len(rejected),
        "reasons": packing.count_reasons(rejected),
        "remarks": packing.count_reasons(renamed),
    }


def label_all(config: PredictConfig, photos: Sequence[tuple[str, str]]) -> list[SampleProblem]:
    """Runs the actor pool over (URI, name) of all photos; returns the problems of those that could not be used."""
    size = min(PIECE_PHOTOS, -(-len(photos) // MIN_PIECES))
    pieces = packing.make_shards({_SPLIT: photos}, size)
    rejected: list[SampleProblem] = []
    actor: type[Any] = LabelActor
    done = num_kept = 0
    for first in range(0, len(pieces), PLAN_PIECES):
        tasks = packing.shard_rows(pieces[first : first + PLAN_PIECES])
        answers = tasks.map(actor, fn_constructor_kwargs={"config": config}, **map_options(config.actors))
        for row in answers.iter_rows():
            answer = json.loads(row["answer"])
            rejected += answer["rejected"]
            done += answer["num_photos"]
            num_kept += answer["num_photos"] * row["is_kept"]
            kept = f", {num_kept} of them by an earlier attempt" if num_kept else ""
            log_count(f"labelled {done} of {len(photos)} images{kept}", done, len(photos))
    return rejected


def class_table(taxonomy: Taxonomy) -> list[dict[str, Any]]:
    """Returns id, name, RGB color and the viewer's side (`left`, `right` or None) of each class."""
    return [
        {"id": part, "name": name, "color": list(color), "side": taxonomy.side_of(part)}
        for part, (name, color) in enumerate(zip(taxonomy.classes, taxonomy.palette, strict=True))
    ]


def summary(result: PredictResult) -> str:
    lines = [f"labelled {result['num_images']} images; labels, colors and overlays are in {result['out']}"]
    if result["num_quarantined"]:
        lines.append(f"{result['num_quarantined']} could not be used; see {result['out']}/{packing.QUARANTINE}:")
        lines += [f"  {count} {reason}" for reason, count in result["reasons"].items()]
    if result["remarks"]:
        lines.append(f"{sum(result['remarks'].values())} have shortened names; see {result['out']}/{packing.REMARKS}")
    return "\n".join(lines)
