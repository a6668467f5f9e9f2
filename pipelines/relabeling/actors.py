"""Actors of `relabel`. Each takes the rows of one file and makes a file of new labels, or sums for thresholds.

An actor does all the work of a file: it reads and decodes one row group ahead in a thread, runs the model, scores,
encodes and writes. So only counts travel between processes, and after a kill an unfinished file is made again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from ray.util import metrics

from dmlcsr.image_files import BadSampleError
from dmlcsr.predict import Prediction, to_canvas
from dmlcsr.quality import ConfidenceSums, given_probabilities
from dmlcsr.refine import Policy, Refined, refine
from dmlcsr.taxonomy import Taxonomy
from dmlcsr.weights import Preprocessing
from pipelines.config.base import Split
from pipelines.data import dataset, packing, row_groups, versions
from pipelines.data.images import Pixels, check_label, decode_image, decode_label, encode_png
from pipelines.data.packing import SampleProblem, Shard
from pipelines.data.row_groups import SplitFiles
from pipelines.data.versions import LabelRow
from pipelines.models.actors import load_predictor
from pipelines.relabeling.counts import RelabelCounts

THRESHOLD_RECEIPTS = f"{dataset.RECEIPTS}/thresholds"
"""Folder of the receipts of the first pass of `confident`, which estimates the thresholds."""
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class RelabelPlan:
    """The settings that all actors of a relabelling share."""

    out: str
    """URI of the new version."""
    sources: Mapping[Split, SplitFiles]
    models: Sequence[str]
    """URIs of model directories: one, or one for each fold of the row groups."""
    policy: Policy
    tta: bool
    use_gpu: bool
    batch_size: int
    rows_per_group: int


class Sample(NamedTuple):
    """A decoded row. `label` is None if the row has no label."""

    id: str
    encoded_label: bytes | None
    canvas: Pixels
    """The image (S, S, 3) at the model's input size S."""
    label: Pixels | None
    size: tuple[int, int]
    """(height, width) of the new label: that of the old label, or of the image if there is no old label."""


class Predicted(NamedTuple):
    """A decoded row and the model's prediction for it."""

    sample: Sample
    prediction: Prediction


class _ShardActor:
    """Predicts the rows of a shard. Its work is the number of a file of the split."""

    def __init__(self, job: RelabelPlan) -> None:
        self.job = job
        self.predictors = [load_predictor(model, job.use_gpu, job.tta) for model in job.models]

    def _predicted(self, shard: Shard) -> Iterator[Predicted | SampleProblem]:
        """Yields every row of the shard in order: its prediction, or the reason why it is bad."""
        source = self.job.sources[shard.split]
        groups = source.groups.of_file(shard.work[0])
        waiting: list[Sample | SampleProblem] = []
        fold, size = 0, self.job.batch_size
        for group, samples in zip(groups, _one_ahead(lambda group: self._load(source, group), groups), strict=True):
            if (following := row_groups.fold_of(group, len(self.predictors)) - 1) != fold:  # needs another model
                yield from self._predict(fold, waiting)
                waiting, fold = [], following
            waiting += samples
            while stop := _end_of_batch(waiting, size):
                yield from self._predict(fold, waiting[:stop])
                waiting = waiting[stop:]
        yield from self._predict(fold, waiting)

    def _load(self, source: SplitFiles, group: int) -> list[Sample | SampleProblem]:
        rows = row_groups.read_rows(source, [source.groups.whole(group)], ("id", "image", "label"))
        return [_decoded(row, self.predictors[0].preprocessing, source.taxonomy) for row in rows]

    def _predict(self, fold: int, items: Sequence[Sample | SampleProblem]) -> Iterator[Predicted | SampleProblem]:
        """Predicts the samples in one batch. Yields all items in order."""
        batch = [item for item in items if isinstance(item, Sample)]
        if not batch:
            yield from (item for item in items if not isinstance(item, Sample))
            return
        canvases = np.stack([sample.canvas for sample in batch])
        found = iter(self.predictors[fold].predict(canvases, [sample.size for sample in batch]))
        for item in items:
            yield Predicted(item, next(found)) if isinstance(item, Sample) else item


def _end_of_batch(items: Sequence[Sample | SampleProblem], size: int) -> int:
    """The number of items up to the sample that fills a batch; 0 if there are too few samples."""
    ends = [end for end, item in enumerate(items, start=1) if isinstance(item, Sample)]
    return ends[size - 1] if len(ends) >= size else 0


def _decoded(row: Mapping[str, Any], preprocessing: Preprocessing, taxonomy: Taxonomy | None) -> Sample | SampleProblem:
    """The row with its image and label decoded, or the reason why the row is bad."""
    try:
        image = decode_image(row["image"])
        label = None if row["label"] is None else decode_label(row["label"])
        if label is not None and taxonomy is not None:
            check_label(label, image.shape[:2], taxonomy)
    except BadSampleError as error:
        return SampleProblem(source=row["id"], reason=error.reason, detail=str(error))
    except ValueError as error:
        return SampleProblem(source=row["id"], reason="undecodable", detail=str(error))
    wanted = image.shape[:2] if label is None else label.shape
    return Sample(row["id"], row["label"], to_canvas(image, preprocessing), label, (wanted[0], wanted[1]))


def _one_ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yields `work(item)` for all items, and computes the next result in a thread while the caller uses this one."""
    with ThreadPoolExecutor(1) as thread:
        pending = None
        for item in items:
            following = thread.submit(work, item)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()


class ThresholdActor(_ShardActor):
    """Sums the probabilities of the given labels of a shard, for the thresholds of `confident`."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return packing.run_once(self.job.out, row, self._sums, THRESHOLD_RECEIPTS)

    def _sums(self, shard: Shard) -> dict[str, Any]:
        num_classes = self.predictors[0].taxonomy.num_classes
        sums, rejected, num_rows = ConfidenceSums.zeros(num_classes), [], 0
        for item in self._predicted(shard):
            num_rows += 1
            if not isinstance(item, Predicted):
                rejected.append(item)
            elif item.sample.label is not None:
                part = ConfidenceSums.zeros(num_classes)
                for rows, probs in item.prediction.strips():
                    label = torch.from_numpy(item.sample.label[rows]).to(probs.device)
                    part.add(given_probabilities(label, probs))
                if np.isfinite(part.total).all():  # if not, the second pass rejects the row
                    sums += part
        totals = {"total": sums.total.tolist(), "num_pixels": sums.num_pixels.tolist()}
        return {**totals, "rejected": rejected, "num_rows": num_rows}


class RefineActor(_ShardActor):
    """Writes the file of a shard with new labels, and updates counters for Prometheus meanwhile."""

    def __init__(self, job: RelabelPlan) -> None:
        super().__init__(job)
        self.rows = metrics.Counter("relabel_rows", "Rows that were relabelled.")
        self.bad_rows = metrics.Counter("relabel_bad_rows", "Rows that went to quarantine.")
        self.changed_pixels = metrics.Counter("relabel_changed_pixels", "Pixels that changed their class.")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return packing.run_once(self.job.out, row, self._write)

    def _write(self, shard: Shard) -> dict[str, Any]:
        counts = RelabelCounts.zeros(self.predictors[0].taxonomy.num_classes)
        rejected: list[SampleProblem] = []
        rows = self._rows(shard, counts, rejected)
        file = dataset.write_file(self.job.out, shard.name, rows, self.job.rows_per_group, versions.LABELS_SCHEMA)
        assert file is not None, "each file of a data set has rows"
        counts.set_path(file.path)
        return {
            "split": shard.split,
            "number": shard.number,
            "file": file.model_copy(update={"num_rejected": len(rejected)}).model_dump(),
            "rejected": rejected,
            "tally": counts.to_dict(),
            "num_rows": file.num_rows,
        }

    def _rows(self, shard: Shard, counts: RelabelCounts, rejected: list[SampleProblem]) -> Iterator[LabelRow]:
        """Yields one row for each row of the shard, in order."""
        for place, item in enumerate(self._predicted(shard)):
            result = item if isinstance(item, dict) else self._refined(item)
            if not isinstance(result, Refined):
                rejected.append(result)
                self.bad_rows.inc()
                yield versions.quarantined_row(result["source"])
                continue
            assert isinstance(item, Predicted)
            counts.add(result, item.sample.id, place)
            self.rows.inc()
            if num_changed := result.num_changed_pixels:
                self.changed_pixels.inc(num_changed)
            yield _relabelled(item.sample, result)

    def _refined(self, item: Predicted) -> Refined | SampleProblem:
        try:
            return refine(item.prediction.strips(), item.sample.label, self.job.policy)
        except ValueError as error:
            return SampleProblem(source=item.sample.id, reason="not_finite", detail=str(error))


def _relabelled(sample: Sample, refined: Refined) -> LabelRow:
    """The row of the new version. A label without a changed pixel keeps its bytes."""
    stays = sample.encoded_label is not None and not refined.num_changed_pixels
    scores = refined.quality
    return LabelRow(
        id=sample.id,
        label=sample.encoded_label if stays else encode_png(refined.label),
        quality=scores and scores.image,
        class_quality=scores and scores.classes,
        changed_fraction=refined.num_changed_pixels / refined.label.size,
        confidence=refined.confidence,
        rule=refined.rule,
    )
