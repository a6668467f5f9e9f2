"""Rows of a packed data set, decoded on Ray Data's workers, in an order that (seed, epoch) alone decides.

An epoch is a permutation of the row groups; each training worker gets a contiguous range of it, cut into chunks of
whole batches whose rows are shuffled. A chunk is one Ray Data task, planned from its number alone, so the stream is
the same whatever the number of tasks, and after any restart. Epochs are joined into one stream: the first batch of
the next epoch is decoded while the last of this one is trained on. Long ones are cut between two chunks.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray.data
from ray.data import ExecutionResources
from torch import Tensor

from dmlcsr.augment import Augmentation, Pose, augment, decode_factor, draw_pose, warp_image
from dmlcsr.taxonomy import get_taxonomy
from pipelines.data import row_groups
from pipelines.data.images import Pixels, decode_image, decode_label
from pipelines.data.row_groups import SplitFiles
from pipelines.errors import UserError
from pipelines.run import console, ray_internals

Columns = dict[str, npt.NDArray[Any]]
MAX_CHUNKS = 2000
"""Chunks of one Ray Data stream, which plans all its tasks before the first: time and memory stay bounded."""


def _decoded(row: dict[str, Any], factor: int = 1) -> tuple[Pixels, Pixels]:
    """Image and label of a row. Raises UserError, naming the row, where either is damaged."""
    try:
        return decode_image(row["image"], factor), decode_label(row["label"])
    except ValueError as error:
        raise UserError(f"row {row['id']} of the data set: {error}; ingest the data again") from error


@dataclass(frozen=True, kw_only=True)
class TrainStream:
    """The batches of one training worker: `batch_size` rows each, `num_batches` in every epoch.

    Every epoch gives each row to one worker, but for the rows of an incomplete last batch, which differ by epoch.
    """

    source: SplitFiles
    augmentation: Augmentation
    size: int
    batch_size: int
    seed: int
    rank: int
    world_size: int
    batches_per_step: int = 1
    """Epochs have a multiple of this many batches: the micro-batches of an optimiser step."""
    chunk_bytes: int = 64 << 20
    """Decoded size of a chunk that is aimed at: large against the cost of a task, small against the object store."""

    @property
    def num_batches(self) -> int:
        rows = self.source.num_rows // self.world_size
        return rows // (self.batch_size * self.batches_per_step) * self.batches_per_step

    @property
    def _num_rows(self) -> int:
        return self.num_batches * self.batch_size

    @property
    def _chunk_rows(self) -> int:
        """Whole batches: a batch is a slice of one chunk, and a stream may end after any chunk."""
        rows = min(max(self.chunk_bytes // (4 * self.size**2), 16), 64)
        return max(1, round(rows / self.batch_size)) * self.batch_size

    @property
    def chunks_per_epoch(self) -> int:
        return math.ceil(self._num_rows / self._chunk_rows)

    def batches(self, first_epoch: int, last_epoch: int, num_tasks: int) -> Iterator[dict[str, Tensor]]:
        """Batches of `image` and `label` on the worker's device: `num_batches` for each epoch, one after the other."""
        first, last = (epoch * self.chunks_per_epoch for epoch in (first_epoch, last_epoch))
        for start in range(first, last, MAX_CHUNKS):
            rows = self.ray_dataset(start, min(start + MAX_CHUNKS, last), num_tasks)
            yield from rows.iter_torch_batches(batch_size=self.batch_size, prefetch_batches=2)

    def ray_dataset(self, first: int, last: int, num_tasks: int) -> ray.data.Dataset:
        """Columns `image` (S, S, 3) and `label` (S, S), uint8, of the chunks `first` to before `last`.

        Chunks are counted from the beginning of epoch 0.
        """

        def decode(number: int) -> Columns:
            return self.decode_chunk(*divmod(first + number, self.chunks_per_epoch))

        return _one_task_per_chunk(last - first, decode, num_tasks, self._chunk_rows * self.size**2 * 4)

    def chunk_bounds(self, chunk: int) -> tuple[int, int]:
        """Where a chunk of this worker begins and ends in the epoch's sequence of rows."""
        first = self.rank * (self.source.num_rows // self.world_size)
        start = first + chunk * self._chunk_rows
        return start, min(start + self._chunk_rows, first + self._num_rows)

    def read_chunk(self, epoch: int, chunk: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of one chunk in the order in which they are trained on."""
        start, stop = self.chunk_bounds(chunk)
        rows = row_groups.read_rows(
            self.source, row_groups.locate_rows(self.source, self.seed, epoch, start, stop), columns
        )
        order = np.random.default_rng([self.seed, epoch, start]).permutation(len(rows))
        return [rows[index] for index in order]

    def decode_chunk(self, epoch: int, chunk: int) -> Columns:
        """Columns `image` and `label` of one chunk."""
        rows = self.read_chunk(epoch, chunk, ("id", "image", "label", "height", "width"))
        taxonomy = get_taxonomy(self.source.taxonomy_name)
        images = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        labels = np.empty((len(rows), self.size, self.size), np.uint8)
        for index, row in enumerate(rows):
            pose = draw_pose(self.augmentation, self.seed, epoch, row["id"])
            factor = decode_factor(row["height"], row["width"], self.size, pose)
            images[index], labels[index] = augment(*_decoded(row, factor), taxonomy, self.size, pose)
        return {"image": images, "label": labels}


def ordered_rows(
    source: SplitFiles, size: int, num_tasks: int | None, rank: int = 0, world_size: int = 1
) -> ray.data.Dataset:
    """Every row once, in order, not augmented; of a worker its share, complete to the last row.

    Each worker needs at least one row.

    Columns: `row` (number in the split), `id`, `image` (S, S, 3) uint8 canvas, `label` (PNG bytes).
    """
    start, stop = (source.num_rows * part // world_size for part in (rank, rank + 1))

    def decode(chunk: int) -> Columns:
        first = start + chunk * _ORDERED_CHUNK
        return _ordered_chunk(source, size, first, min(first + _ORDERED_CHUNK, stop))

    num_chunks = math.ceil((stop - start) / _ORDERED_CHUNK)
    return _one_task_per_chunk(num_chunks, decode, num_tasks, _ORDERED_CHUNK * size**2 * 4)


def ordered_chunks(source: SplitFiles, size: int) -> Iterator[Columns]:
    """The batches of `ordered_rows`, decoded in this process."""
    for first in range(0, source.num_rows, _ORDERED_CHUNK):
        yield _ordered_chunk(source, size, first, min(first + _ORDERED_CHUNK, source.num_rows))


def _ordered_chunk(source: SplitFiles, size: int, first: int, last: int) -> Columns:
    rows = row_groups.read_rows(source, row_groups.locate_rows(source, None, 0, first, last), ("id", "image", "label"))
    return {
        "row": np.arange(first, last),
        "id": np.array([row["id"] for row in rows], object),
        "image": np.stack([warp_image(_decoded(row)[0], size, Pose()) for row in rows]),
        "label": np.array([row["label"] for row in rows], object),
    }


_ORDERED_CHUNK = 16


def _one_task_per_chunk(
    num_chunks: int, decode: Callable[[int], Columns], num_tasks: int | None, chunk_bytes: int
) -> ray.data.Dataset:
    """Chunk 0, 1, ... in order, each decoded by a task of its own; at most `num_tasks` at once where given.

    Tasks of such a stream run ahead of who uses it by a few chunks each, not by as much as the object store holds.
    """

    def call(batch: Columns) -> Columns:
        console.forward_logs_to_driver()
        return decode(int(batch["id"][0]))

    numbers = ray.data.range(num_chunks, override_num_blocks=num_chunks)
    chunks = numbers.map_batches(call, batch_size=None, batch_format="numpy")
    chunks.context.enable_progress_bars = False
    chunks.context.execution_options.preserve_order = True
    if num_tasks is not None:
        ahead = _CHUNKS_AHEAD * (num_tasks + 1) * chunk_bytes
        # Not `TaskPoolStrategy(size=...)`: it would keep Ray from fusing the two steps into one task per chunk.
        limits = ExecutionResources(cpu=num_tasks, object_store_memory=ahead)
        chunks.context.execution_options.resource_limits = limits
        chunks.context.target_max_block_size = 2 * chunk_bytes  # what Ray expects of a task that has not answered yet
        ray_internals.rest_between_steps(chunks.context, _REST_SECONDS)
    return chunks


_CHUNKS_AHEAD = 4
_REST_SECONDS = 0.01
