"""Scores a network on labelled rows, and re-estimates the BatchNorm statistics that averaged weights need before that.

`evaluate` uses the counts of each image, a training the sum over all its workers, and a soup those of one process.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from torch import Tensor, nn

from dmlcsr.metrics import Counts, confusion_matrix, scores
from dmlcsr.model import DMLCSR
from dmlcsr.predict import Prediction, Predictor, on_device
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
    for index, label, prediction in _usable(predictor, batch):
        counts = Counts(predictor.taxonomy.num_classes)
        counts.add(label, prediction.label_map())
        yield index, counts


def _usable(predictor: Predictor, batch: Columns) -> Iterator[tuple[int, npt.NDArray[np.uint8], Prediction]]:
    """Yields (index in the batch, label, prediction at the label's resolution) for each usable row."""
    usable = [index for index, reason in enumerate(batch["reason"]) if not reason]
    if usable:
        labels = [decode_label(batch["label"][index]) for index in usable]
        predictions = predictor.predict(batch["image"][usable], [label.shape for label in labels])
        yield from zip(usable, labels, predictions, strict=True)


def validation_metrics(
    network: DMLCSR, card: ModelCard, device: torch.device, batches: Iterable[Columns], reduce: Reduce | None = None
) -> EpochMetrics:
    """The metrics of a validation, under the names with which they are stored; a further metric is one more entry here.

    `batches` are those of `OrderedRows`. Only the confusion is counted, on the device: the boundary scores of
    `evaluate` take long. With `reduce` each worker gives its own batches, and the metrics are
    those of all workers. A score that is undefined because no class has a pixel is 0.
    """
    predictor = Predictor(network.decoupled(), card, str(device))
    counts = Counts(predictor.taxonomy.num_classes)
    confusion = torch.zeros(counts.confusion.shape, dtype=torch.int64, device=device)
    for batch in batches:
        for _, label, prediction in _usable(predictor, batch):
            truth = on_device(label, predictor.device)
            confusion += confusion_matrix(truth, prediction.ids(), counts.num_classes)
    if reduce is not None:
        reduce(confusion)
    counts.confusion = confusion.cpu().numpy()
    return {VAL_MEAN_F1: scores(counts, predictor.taxonomy).mean_f1 or 0.0}


def reestimate_batch_norm(
    network: nn.Module, batches: Iterable[Tensor], max_batches: int | None = None, reduce: Reduce | None = None
) -> None:
    """Replaces the network's BatchNorm statistics by those of one pass over normalized batches (B, 3, S, S).

    Each worker takes at most `max_batches` batches, or all if it is None. On CUDA the network runs in bf16, as in the
    training. Raises ValueError if there are none.
    """
    is_cuda = any(buffer.is_cuda for buffer in network.buffers())
    with torch.autocast("cuda", torch.bfloat16, enabled=is_cuda):
        reestimate(network, islice(batches, max_batches), reduce)


def sum_over_workers(value: Tensor) -> None:
    """Sums a tensor over the workers of a training, in place. Outside of a training the tensor is not changed."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
