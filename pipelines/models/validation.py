"""Counting what a model gets right on rows of a split."""

from dmlcsr.metrics import Counts
from dmlcsr.predict import Predictor
from pipelines.data.images import decode_label
from pipelines.data.stream import Columns


def count(counts: Counts, predictor: Predictor, batch: Columns) -> None:
    """Adds the rows of a batch of `stream.ordered_rows`, each at its label's own resolution."""
    labels = [decode_label(data) for data in batch["label"]]
    predicted = predictor.label_maps(batch["image"], [label.shape for label in labels])
    for label, prediction in zip(labels, predicted, strict=True):
        counts.add(label, prediction)
