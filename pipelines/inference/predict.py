"""`predict` writes label maps, overlays and cut-outs for images that are not in a data set."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import ray.data

from dmlcsr.augment import Pose, warp_image
from pipelines import storage
from pipelines.config.commands import PredictConfig
from pipelines.data import packing
from pipelines.data.images import decode_image, encode_png
from pipelines.data.packing import SampleProblem
from pipelines.data.stream import Columns
from pipelines.errors import UserError
from pipelines.inference.overlay import cutouts, overlay
from pipelines.ingest import raw_files
from pipelines.ingest.formats import IMAGE_SUFFIXES
from pipelines.models import model_directory
from pipelines.models.actors import ModelActor, map_batches_options, needs
from pipelines.run import claims
from pipelines.run.progress import log_count
from pipelines.run.session import ray_session

logger = logging.getLogger(__name__)


class LabelActor(ModelActor):
    """Writes the pictures of each image; returns one row per image, with the reason if the image could not be read."""

    def __init__(self, out: str, with_cutouts: bool, **model: Any) -> None:
        super().__init__(**model)
        self.out, self.with_cutouts = out, with_cutouts

    def __call__(self, batch: Columns) -> Columns:
        reasons = [""] * len(batch["uri"])
        images = []
        for index, uri in enumerate(batch["uri"]):
            try:
                images.append((batch["name"][index], decode_image(storage.read_bytes(str(uri)))))
            except (ValueError, UserError) as error:
                reasons[index] = str(error)
        if images:
            self._write(*zip(*images, strict=True))
        return {"uri": batch["uri"], "reason": np.array(reasons, object)}

    def _write(self, names: Sequence[str], images: Sequence[npt.NDArray[np.uint8]]) -> None:
        canvases = np.stack([warp_image(image, self.predictor.size, Pose()) for image in images])
        labels = self.predictor.label_maps(canvases, [image.shape[:2] for image in images])
        for name, image, label in zip(names, images, labels, strict=True):
            pictures = {f"labels/{name}": label, f"overlays/{name}": overlay(image, label, self.predictor.taxonomy)}
            if self.with_cutouts:
                parts = cutouts(image, label, self.predictor.taxonomy)
                pictures |= {f"cutouts/{name}/{part}": picture for part, picture in parts.items()}
            for path, picture in pictures.items():
                storage.write_bytes(storage.join(self.out, f"{path}.png"), encode_png(picture))


class PredictResult(TypedDict):
    """The result of `predict`."""

    out: str
    num_images: int
    """Images that were labelled."""
    num_quarantined: int
    """Images that could not be read."""


def run(config: PredictConfig) -> PredictResult:
    """Writes `labels/<name>.png` (uint8 ids at the image's size) and `overlays/<name>.png`.

    With `cutouts` it also writes `cutouts/<name>/<class>.png` for each visible part: its bounding box, in RGBA.

    Images that cannot be read are listed in `quarantine/`, and the others are processed. Raises UserError if no image
    can be read.
    """
    model_directory.read_model(config.model)
    uris = raw_files.list_images(config.images)
    if not uris:
        raise UserError(f"{config.images} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    with claims.claim_anew("predict", config, config.out):
        with ray_session(needs(config.actors)):
            rejected = predict_all(config, uris)
        packing.write_problems(config.out, packing.QUARANTINE, rejected)
    num_images = len(uris) - len(rejected)
    if num_images == 0:
        raise UserError(f"no image in {config.images} could be read; the first reason: {rejected[0]['detail']}")
    return {"out": config.out, "num_images": num_images, "num_quarantined": len(rejected)}


def predict_all(config: PredictConfig, uris: Sequence[str]) -> list[SampleProblem]:
    """Runs the actor pool over the images; returns the problems of those that could not be read."""
    names = output_names(config.images, uris)
    items = [{"uri": uri, "name": name} for uri, name in zip(uris, names, strict=True)]
    arguments = {"model": config.model, "use_gpu": config.actors.use_gpu, "tta": config.tta}
    arguments |= {"out": config.out, "with_cutouts": config.cutouts}
    blocks = math.ceil(len(items) / config.actors.batch_size)
    answers = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        LabelActor, fn_constructor_kwargs=arguments, **map_batches_options(config.actors)
    )
    answers.context.enable_progress_bars = False
    rejected = []
    for done, row in enumerate(answers.iter_rows(), start=1):
        if row["reason"]:
            rejected.append(SampleProblem(source=row["uri"], reason="unreadable", detail=row["reason"]))
        if done % config.actors.batch_size == 0 or done == len(uris):
            log_count(f"labelled {done} of {len(uris)} images", done, len(uris))
    return rejected


def output_names(root: str, uris: Sequence[str]) -> list[str]:
    """The images' paths below `root` without suffix; the suffix is kept if two images differ only in it."""
    paths = [PurePosixPath(uri.removeprefix(root).lstrip("/") or PurePosixPath(uri).name) for uri in uris]
    counts = Counter(path.with_suffix("") for path in paths)
    names = [str(path if counts[path.with_suffix("")] > 1 else path.with_suffix("")) for path in paths]
    # Keys of an object store may hold "..", which must not lead out of the output folder.
    return [name.replace("..", "__") for name in names]


def summary(result: PredictResult) -> str:
    bad = f"; {result['num_quarantined']} could not be read" if result["num_quarantined"] else ""
    return f"labelled {result['num_images']} images{bad}; labels and overlays are in {result['out']}"
