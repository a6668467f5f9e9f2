"""Scores a network on labelled rows, and re-estimates the BatchNorm statistics that averaged weights need before that.

`evaluate` uses the counts of each image, a training the sum over all its workers, and a soup those of one process.
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
from pipelines.data.decode_tasks import Columns
from pipelines.data.images import decode_label
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.run_directory import EpochMetrics

Reduce = Callable[[Tensor], None]
"""Sums a tensor over all workers, in place."""


def image_counts(predictor: Predictor, batch: Columns) -> Iterator[tuple[int, Counts]]:
    """Yields (index in the batch, counts) for each usable row of a batch of `OrderedRows`.

    Pixels are counted at the resolution of the row's label. Rows that cannot be used are left out.
    """
    usable = [index for index, reason in enumerate(batch["reason"]) if not reason]
    if not usable:
        return
    labels = [decode_label(batch["label"][index]) for index in usable]
    predictions = predictor.label_maps(batch["image"][usable], [label.shape for label in labels])
    for index, label, prediction in zip(usable, labels, predictions, strict=True):
        counts = Counts(predictor.taxonomy.num_classes)
        counts.add(label, prediction)
        yield index, counts


def validation_metrics(
    network: DMLCSR, card: ModelCard, device: torch.device, batches: Iterable[Columns], reduce: Reduce | None = None
) -> EpochMetrics:
    """The metrics of a validation, under the names with which they are stored; a further metric is one more entry here.

    `batches` are those of `OrderedRows`. With `reduce` each worker gives its own batches, and the metrics are
    those of all workers. A score that is undefined because no class has a pixel is 0.
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
    """Replaces the counts by their sums over all workers, in place."""
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
    """Replaces the network's BatchNorm statistics by those of one pass over normalized batches (B, 3, S, S).

    Each worker takes at most `max_batches` batches, or all if it is None. Raises ValueError if there are none.
    """
    reestimate(network, islice(batches, max_batches), reduce)


def sum_over_workers(value: Tensor) -> None:
    """Sums a tensor over the workers of a training, in place. Outside of a training the tensor is not changed."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
