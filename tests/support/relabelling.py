"""Helpers for tests of relabelling: models, rows, and the labels that are expected for them."""

from dataclasses import replace

import torch

from dmlcsr.augment import Pose, warp_image
from dmlcsr.model import Architecture, FaceParser
from dmlcsr.predict import Predictor
from dmlcsr.refine import refine
from dmlcsr.taxonomy import CELEBAMASK_HQ
from dmlcsr.weights import ModelCard, Preprocessing
from pipelines.data import dataset, images, row_groups
from pipelines.data.versions import QUARANTINED, with_previous_labels
from pipelines.models import model_directory
from tests.support.data_sets import rows_of

NUM_ROWS, BAD = 120, (7, 50)
HALF, UNLABELLED, NARROW = range(0, NUM_ROWS, 10), range(3, NUM_ROWS, 6), range(1, NUM_ROWS, 5)
SUSPECTS = 30


def write_model(folder, seed=0, width=0.125, **card):
    """Writes an untrained model. Its labels are wrong, but reproducible."""
    torch.manual_seed(seed)
    architecture = Architecture(num_classes=19, depth=18, width=width)
    described = ModelCard(architecture=architecture, taxonomy=CELEBAMASK_HQ, preprocessing=Preprocessing(size=64))
    model_directory.write_model(str(folder), FaceParser(architecture).eval(), replace(described, **card))
    return str(folder)


def labels_before(uri, split="train"):
    """The labels that `relabel` replaced, of all rows of a split."""
    source = row_groups.open_split(str(uri), with_previous_labels(dataset.read_manifest(str(uri))), split)
    files = range(len(source.files))
    return [row["label"] for file in files for row in row_groups.rows_of_file(source, file, ["label"])]


def usable(rows):
    return [row for row in rows if row["rule"] != QUARANTINED]


def narrow(row):
    """The left part of a picture, with a label map whose upper left corner is ignored."""
    image, label = images.decode_image(row["image"])[:, :64], images.decode_label(row["label"])[:, :64].copy()
    label[:20, :10] = 255
    return {"image": images.encode_png(image), "label": images.encode_png(label), "width": 64}


def by_hand(model, rows, policy):
    """Yields each good row with the labels that `relabel` should give it, computed in a plain loop."""
    predictor = Predictor(*model_directory.read_model(model))
    for row in rows:
        image = images.decode_image(row["image"])
        label = None if row["label"] is None else images.decode_label(row["label"])
        canvas = as_canvas(image, predictor.size)
        (prediction,) = predictor.predict(canvas, [image.shape[:2] if label is None else label.shape])
        yield row, refine(prediction.strips(), label, policy), prediction, label


def as_canvas(image, size):
    return warp_image(image, size, Pose())[None]


def good_rows(mixed):
    return [row for number, row in enumerate(rows_of(mixed)) if number not in BAD]
