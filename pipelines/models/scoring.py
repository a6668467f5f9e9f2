"""What a network gets right on labelled rows, and the BatchNorm pass that an average of weights needs before it.

Everyone scores by it: `evaluate` wants the counts of each image, a training those of all its workers, a soup its own.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
import torch.distributed
from torch import Tensor, nn

from dmlcsr.metrics import Counts, scores
from dmlcsr.model import DMLCSR
from dmlcsr.predict import Predictor
from dmlcsr.regulation import reestimate
from dmlcsr.weights import ModelCard
from pipelines.data.images import decode_label
from pipelines.data.stream import Columns
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.run_directory import EpochMetrics

Reduce = Callable[[Tensor], None]
"""Sums a tensor over all workers, in place."""


def image_counts(predictor: Predictor, batch: Columns) -> Iterator[tuple[int, Counts]]:
    """(place in the batch, its counts) of each labelled row of a batch of `stream.ordered_rows`.

    Each is counted at its label's own resolution. Rows without a label count nowhere.
    """
    places = [place for place, data in enumerate(batch["label"]) if data is not None]
    if not places:
        return
    labels = [decode_label(batch["label"][place]) for place in places]
    predictions = predictor.label_maps(batch["image"][places], [label.shape for label in labels])
    for place, label, prediction in zip(places, labels, predictions, strict=True):
        counts = Counts(predictor.taxonomy.num_classes)
        counts.add(label, prediction)
        yield place, counts


def validation_metrics(
    network: DMLCSR, card: ModelCard, device: torch.device, batches: Iterable[Columns], reduce: Reduce | None = None
) -> EpochMetrics:
    """What is kept of a validation, under the names it is stored with; a further metric is one more entry here.

    `batches`: those of `stream.ordered_rows`; with `reduce` they are this worker's, and the metrics those of all.
    A score that is not defined, as no class has a pixel, is 0.
    """
    predictor = Predictor(network.decoupled(), card, str(device))
    counts = Counts(predictor.taxonomy.num_classes)
    for batch in batches:
        for _, image in image_counts(predictor, batch):
            counts += image
    if reduce is not None:
        _reduce_counts(counts, device, reduce)
    return {VAL_MEAN_F1: scores(counts, predictor.taxonomy).mean_f1 or 0.0}


def _reduce_counts(counts: Counts, device: torch.device, reduce: Reduce) -> None:
    """Makes them the counts of all workers, in place."""
    for array in (counts.confusion, counts.boundary_intersection, counts.boundary_union):
        values = torch.tensor(array, device=device)
        reduce(values)
        array[:] = values.cpu().numpy()
    num_images = torch.tensor(counts.num_images, device=device)
    reduce(num_images)
    counts.num_images = int(num_images.item())


def reestimate_batch_norm(
    network: nn.Module, batches: Iterable[Tensor], max_batches: int | None = None, reduce: Reduce | None = None
) -> None:
    """Gives the network fresh BatchNorm statistics from one pass over normalised batches (B, 3, S, S).

    Takes `max_batches` of them at most, on each worker. Raises ValueError if there are none.
    """
    reestimate(network, islice(batches, max_batches), reduce)


def sum_over_workers(value: Tensor) -> None:
    """Sums a tensor over the workers of a training, in place; outside of one there is nothing to sum."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
