"""Streams the rows of a packed data set, decoded on Ray Data's workers. Only seed and epoch decide their order.

An epoch is a permutation of the row groups. Each training worker gets a contiguous range of it, cut into chunks of
whole batches; the rows of a chunk are shuffled. One Ray Data task decodes one chunk and needs only its number, so the
stream does not depend on the number of tasks and is the same after a restart. All epochs form one stream: the first
batch of the next epoch is decoded while the last batch of this epoch is trained on. A long stream is cut between two
chunks (`MAX_CHUNKS`).

A row that cannot be used changes neither the number of batches nor any other row: see `decode_chunk`.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray.data
from ray.data import ExecutionResources
from torch import Tensor

from dmlcsr.augment import BORDER_COLOR, Augmentation, Color, augment, decode_factor, draw_pose
from dmlcsr.image_files import BadSampleError
from dmlcsr.predict import to_canvas
from dmlcsr.taxonomy import IGNORE, Taxonomy
from dmlcsr.weights import Preprocessing
from pipelines.data import bad_rows, row_groups
from pipelines.data.packing import SampleProblem
from pipelines.data.row_groups import SplitFiles
from pipelines.run import console, ray_internals

Columns = dict[str, npt.NDArray[Any]]
MAX_CHUNKS = 2000
"""Maximum number of chunks in one Ray Data stream. Ray plans all tasks of a stream before it starts the first one, so
this bounds the time and memory of planning."""
_ORDERED_CHUNK = 16
"""Number of rows in a chunk of `ordered_rows`: those of a full row group, so a task reads few row groups."""
_CHUNKS_AHEAD = 4
"""Number of chunks that may be decoded ahead of the consumer, for each task that may run, and as many more."""
_NO_PROBLEM = SampleProblem(source="", reason="", detail="")
_REST_SECONDS = 0.01
"""Pause of Ray Data's scheduling loop after each step: without it the loop would take a core from the training."""


@dataclass(frozen=True, kw_only=True)
class TrainStream:
    """The batches of one training worker: `batch_size` rows each, `num_batches` in every epoch.

    In each epoch every row goes to exactly one worker. Each worker skips the rows of its last incomplete batch; these
    are other rows in every epoch.
    """

    source: SplitFiles
    augmentation: Augmentation
    size: int
    batch_size: int
    seed: int
    rank: int
    world_size: int
    batches_per_step: int = 1
    """Number of micro-batches in an optimizer step. `num_batches` is rounded down to a multiple of it."""
    chunk_bytes: int = 64 << 20
    """Target size of a decoded chunk, in bytes: large enough to hide the cost of a Ray task, small compared with the
    object store."""
    records: str | None = None
    """Folder for records of the rows that cannot be used; None: there are no records."""
    border_color: Color = BORDER_COLOR
    """RGB of the canvas outside the image."""

    @property
    def num_batches(self) -> int:
        rows = self.source.num_rows // self.world_size
        return rows // (self.batch_size * self.batches_per_step) * self.batches_per_step

    @property
    def _num_rows(self) -> int:
        return self.num_batches * self.batch_size

    @property
    def _chunk_rows(self) -> int:
        """The rows of whole batches: a batch is a slice of one chunk, and a stream may end after any chunk."""
        rows = min(max(self.chunk_bytes // (4 * self.size**2), 16), 64)
        return max(1, round(rows / self.batch_size)) * self.batch_size

    @property
    def chunks_per_epoch(self) -> int:
        return math.ceil(self._num_rows / self._chunk_rows)

    def batches(self, first_epoch: int, last_epoch: int, num_tasks: int) -> Iterator[dict[str, Tensor]]:
        """Yields the batches of the epochs `first_epoch` to before `last_epoch`: `image` and `label`, on the worker's
        device."""
        first, last = (epoch * self.chunks_per_epoch for epoch in (first_epoch, last_epoch))
        for start in range(first, last, MAX_CHUNKS):
            rows = self.ray_dataset(start, min(start + MAX_CHUNKS, last), num_tasks)
            yield from rows.iter_torch_batches(batch_size=self.batch_size, prefetch_batches=2)

    def ray_dataset(self, first: int, last: int, num_tasks: int) -> ray.data.Dataset:
        """The chunks `first` to before `last`, counted from the beginning of epoch 0.

        Columns: `image` (S, S, 3) and `label` (S, S), uint8.
        """

        def decode(number: int) -> Columns:
            return self.decode_chunk(*divmod(first + number, self.chunks_per_epoch))

        return _one_task_per_chunk(last - first, decode, num_tasks, self._chunk_rows * self.size**2 * 4)

    def chunk_bounds(self, chunk: int) -> tuple[int, int]:
        """The first row of a chunk of this worker in the epoch's sequence of rows, and the row after its last."""
        first = self.rank * (self.source.num_rows // self.world_size)
        start = first + chunk * self._chunk_rows
        return start, min(start + self._chunk_rows, first + self._num_rows)

    def read_chunk(self, epoch: int, chunk: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Reads the rows of one chunk in the order in which they are trained on."""
        start, stop = self.chunk_bounds(chunk)
        rows = row_groups.read_rows(
            self.source, row_groups.locate_rows(self.source, self.seed, epoch, start, stop), columns
        )
        order = np.random.default_rng([self.seed, epoch, start]).permutation(len(rows))
        return [rows[index] for index in order]

    def decode_chunk(self, epoch: int, chunk: int) -> Columns:
        """Decodes and augments the N rows of one chunk: `image` (N, S, S, 3) and `label` (N, S, S), uint8.

        A row that cannot be used is replaced by the nearest usable one, the earlier of two, as it was augmented. If the
        chunk has none, by an empty image whose label is ignored.
        """
        rows = self.read_chunk(epoch, chunk, bad_rows.COLUMNS)
        taxonomy = _taxonomy(self.source)
        images = np.full((len(rows), self.size, self.size, 3), self.border_color, np.uint8)
        labels = np.full((len(rows), self.size, self.size), IGNORE, np.uint8)
        bad: dict[int, SampleProblem] = {}
        for index, row in enumerate(rows):
            pose = draw_pose(self.augmentation, self.seed, epoch, row["id"])
            factor = decode_factor(row["height"], row["width"], self.size, pose)
            try:
                decoded = bad_rows.decode_row(row, taxonomy, factor)
            except BadSampleError as error:
                bad[index] = bad_rows.problem_of(row, error)
            else:
                images[index], labels[index] = augment(*decoded, taxonomy, self.size, pose, self.border_color)
        for index, usable in _nearest_usable(len(rows), bad):
            images[index], labels[index] = images[usable], labels[usable]
        if self.records is not None:
            bad_rows.write_records(self.records, bad.values())
        return {"image": images, "label": labels}


def _taxonomy(source: SplitFiles) -> Taxonomy:
    assert source.taxonomy is not None, "a command that needs labels begins with labelled rows"
    return source.taxonomy


def _nearest_usable(num_rows: int, bad: Collection[int]) -> Iterator[tuple[int, int]]:
    """Yields (bad place, nearest usable place) for each bad place, the earlier of two; nothing if none is usable."""
    usable = [place for place in range(num_rows) if place not in bad]
    if usable:
        yield from ((place, min(usable, key=lambda other: (abs(other - place), other))) for place in bad)


def ordered_rows(
    source: SplitFiles,
    preprocessing: Preprocessing,
    num_tasks: int | None,
    rank: int = 0,
    world_size: int = 1,
    records: str | None = None,
) -> ray.data.Dataset:
    """All rows of a split once, in order, without augmentation.

    With `world_size` > 1 only the contiguous share of `rank`; no row is dropped. Each share needs at least one row.
    `records`: folder for records of the rows that cannot be used; None: there are no records.

    Columns: `row` (number in the split), `id`, `image` (S, S, 3) uint8 canvas, `label` (PNG bytes), `reason` and
    `detail`. The last two are empty if the row can be used; if not, its image is empty.
    """
    start, stop = (source.num_rows * part // world_size for part in (rank, rank + 1))

    def decode(chunk: int) -> Columns:
        first = start + chunk * _ORDERED_CHUNK
        return _ordered_chunk(source, preprocessing, first, min(first + _ORDERED_CHUNK, stop), records)

    num_chunks = math.ceil((stop - start) / _ORDERED_CHUNK)
    return _one_task_per_chunk(num_chunks, decode, num_tasks, _ORDERED_CHUNK * preprocessing.size**2 * 4)


def ordered_chunks(source: SplitFiles, preprocessing: Preprocessing) -> Iterator[Columns]:
    """Yields the chunks of `ordered_rows`, decoded in this process."""
    for first in range(0, source.num_rows, _ORDERED_CHUNK):
        yield _ordered_chunk(source, preprocessing, first, min(first + _ORDERED_CHUNK, source.num_rows))


def _ordered_chunk(
    source: SplitFiles, preprocessing: Preprocessing, first: int, last: int, records: str | None = None
) -> Columns:
    rows = row_groups.read_rows(source, row_groups.locate_rows(source, None, 0, first, last), bad_rows.COLUMNS)
    size = preprocessing.size
    canvases = np.full((len(rows), size, size, 3), preprocessing.border_color, np.uint8)
    bad: dict[int, SampleProblem] = {}
    for index, row in enumerate(rows):
        try:
            canvases[index] = to_canvas(bad_rows.decode_row(row, _taxonomy(source))[0], preprocessing)
        except BadSampleError as error:
            bad[index] = bad_rows.problem_of(row, error)
    if records is not None:
        bad_rows.write_records(records, bad.values())
    problems = [bad.get(index, _NO_PROBLEM) for index in range(len(rows))]
    return {
        "row": np.arange(first, last),
        "id": np.array([row["id"] for row in rows], object),
        "image": canvases,
        "label": np.array([row["label"] for row in rows], object),
        "reason": np.array([problem["reason"] for problem in problems], object),
        "detail": np.array([problem["detail"] for problem in problems], object),
    }


def _one_task_per_chunk(
    num_chunks: int, decode: Callable[[int], Columns], num_tasks: int | None, chunk_bytes: int
) -> ray.data.Dataset:
    """A Ray data set of the chunks 0, 1, ... in order. Each chunk is decoded by a task of its own.

    If `num_tasks` is given, at most that many run at once, and decoding runs at most a few chunks per task ahead of the
    consumer. Ray's default would fill the object store.
    """

    def call(batch: Columns) -> Columns:
        console.forward_logs_to_driver()
        return decode(int(batch["id"][0]))

    numbers = ray.data.range(num_chunks, override_num_blocks=num_chunks)
    chunks = numbers.map_batches(call, batch_size=None, batch_format="numpy")
    chunks.context.enable_progress_bars = False
    chunks.context.raise_original_map_exception = True  # a training worker does not inherit that of the session
    chunks.context.execution_options.preserve_order = True
    if num_tasks is not None:
        ahead = _CHUNKS_AHEAD * (num_tasks + 1) * chunk_bytes
        # `TaskPoolStrategy(size=...)` would limit the tasks too, but keep Ray from fusing the two steps into one task.
        limits = ExecutionResources(cpu=num_tasks, object_store_memory=ahead)
        chunks.context.execution_options.resource_limits = limits
        chunks.context.target_max_block_size = 2 * chunk_bytes  # the output that Ray expects of a task that is running
        ray_internals.rest_between_steps(chunks.context, _REST_SECONDS)
    return chunks
