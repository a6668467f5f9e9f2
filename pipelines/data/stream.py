"""Streams the rows of a packed data set, decoded on Ray Data's workers. Only seed and epoch decide their order.

An epoch is one sequence of rows (see `order`), cut into chunks that the training workers take in turns (see `shares`).
One Ray Data task decodes one or two chunks, or parts of them, and needs only its number, so the stream does not depend
on the number of tasks and is the same after a restart. Batches are cut across chunks. All epochs form one stream: the
first batch of the next epoch is decoded while the last batch of this epoch is trained on. A long stream is cut between
two batches, because Ray plans it before it begins (`decode_tasks.MAX_TASKS`).

A row that cannot be used changes neither the number of batches nor any other row: see `TrainStream.decode`.
"""

import math
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import ray.data
from torch import Tensor

from dmlcsr.augment import BORDER_COLOR, Augmentation, Color, augment, decode_factor, draw_pose
from dmlcsr.image_files import BadSampleError
from dmlcsr.taxonomy import IGNORE
from pipelines.data import bad_rows, decode_tasks, row_groups
from pipelines.data.decode_tasks import Columns
from pipelines.data.order import EpochOrder
from pipelines.data.packing import SampleProblem
from pipelines.data.row_groups import SplitFiles
from pipelines.data.shares import Share

Batch = dict[str, Tensor]
PlacedRow = tuple[int, dict[str, Any]]
"""The place of a row in its part of a chunk, and the row."""
_PARTS_PER_TASK = 2
"""Number of chunks, or parts of one, that a task decodes if there are many. While one is decoded, the next is read."""


class ChunkPart(NamedTuple):
    """The rows at the positions `start` to before `stop` of an epoch, which lie in one chunk."""

    epoch: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class TrainStream:
    """The batches of one training worker: `batch_size` rows each, `num_batches` in every epoch.

    In each epoch every row goes to exactly one worker. Each worker leaves out the rows of an incomplete batch; these
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
    """Number of micro-batches in an optimizer step. `num_batches` is a multiple of it."""
    chunk_bytes: int = 64 << 20
    """Target size of a decoded chunk, in bytes: large enough to hide the cost of a Ray task, small compared with the
    object store."""
    records: str | None = None
    """Folder for records of the rows that cannot be used; None: there are no records."""
    border_color: Color = BORDER_COLOR
    """RGB of the canvas outside the image."""

    @property
    def chunk_rows(self) -> int:
        """The number of rows in a chunk, those of whole row groups."""
        rows = min(max(self.chunk_bytes // (4 * self.size**2), 16), 64)
        rows_per_group = self.source.groups.rows_per_group
        return rows // rows_per_group * rows_per_group or rows

    @property
    def share(self) -> Share:
        """The division of an epoch among the workers."""
        return Share(
            num_rows=self.source.num_rows,
            chunk_rows=self.chunk_rows,
            world_size=self.world_size,
            step_rows=self.batch_size * self.batches_per_step,
        )

    @property
    def num_batches(self) -> int:
        return self.share.num_taken // self.batch_size

    def batches(self, first_epoch: int, last_epoch: int, tasks_at_once: int) -> Generator[Batch, None, None]:
        """Yields the batches of the epochs `first_epoch` to before `last_epoch`: `image` and `label`, on the worker's
        device."""
        rows = self.share.num_taken
        first, last = first_epoch * rows, last_epoch * rows
        window = max(1, decode_tasks.MAX_TASKS * min(self.chunk_rows, rows) // self.batch_size) * self.batch_size
        for start in range(first, last, window):
            data = self.ray_dataset(list(self.parts(start, min(start + window, last))), tasks_at_once)
            yield from data.iter_torch_batches(batch_size=self.batch_size, prefetch_batches=2)

    def batches_here(self, first_epoch: int, last_epoch: int) -> Iterator[Columns]:
        """Yields the same batches, decoded in this process."""
        rows = self.share.num_taken
        yield from _batched(map(self.decode, self.parts(first_epoch * rows, last_epoch * rows)), self.batch_size)

    def ray_dataset(self, parts: Sequence[ChunkPart], tasks_at_once: int) -> ray.data.Dataset:
        """The rows of the parts. Columns: `image` (S, S, 3) and `label` (S, S), uint8."""
        chunk_bytes = self.chunk_rows * self.size**2 * 4
        each = _PARTS_PER_TASK if len(parts) > 2 * _PARTS_PER_TASK * tasks_at_once else 1

        def decode(task: int) -> Iterator[Columns]:
            return self._decode_all(parts[task * each : (task + 1) * each])

        return decode_tasks.decoded_in_order(math.ceil(len(parts) / each), decode, tasks_at_once, chunk_bytes)

    def _decode_all(self, parts: Sequence[ChunkPart]) -> Iterator[Columns]:
        """Yields the decoded parts. While one is decoded, the next one is read."""
        rows = self.rows(parts[0], bad_rows.COLUMNS)
        with ThreadPoolExecutor(1) as thread:
            for part, following in zip_longest(parts, parts[1:]):
                ahead = following and thread.submit(lambda of: list(self.rows(of, bad_rows.COLUMNS)), following)
                yield self.decode(part, rows)
                rows = iter(ahead.result()) if ahead else iter(())

    def parts(self, first: int, last: int) -> Iterator[ChunkPart]:
        """Yields the parts of chunks that hold the rows `first` to before `last` of this worker.

        Rows are counted from the beginning of epoch 0, without those that the worker leaves out.
        """
        share = self.share
        rows = share.num_taken
        while first < last:
            epoch, begin = divmod(first, rows)
            stop = min(rows, begin + last - first)
            yield from (ChunkPart(epoch, *positions) for positions in share.taken(self.rank, begin, stop))
            first += stop - begin

    def rows(self, part: ChunkPart, columns: Sequence[str]) -> Iterator[PlacedRow]:
        """Yields (place in the part, row) for each row, in the order in which they are read."""
        order = EpochOrder(self.source.groups, self.seed, part.epoch, self.chunk_rows)
        pieces = list(order.pieces(part.start, part.stop))
        found = row_groups.read_pieces(self.source, [piece.rows for piece in pieces], columns)
        for piece, rows in zip(pieces, found, strict=True):
            for position, row in zip(piece.positions.tolist(), rows, strict=True):
                if part.start <= position < part.stop:
                    yield position - part.start, row

    def decode(self, part: ChunkPart, rows: Iterable[PlacedRow] | None = None) -> Columns:
        """Decodes and augments the N rows of a part of a chunk: `image` (N, S, S, 3) and `label` (N, S, S), uint8.

        A row that cannot be used is replaced by the nearest usable one of its chunk, the earlier of two, as it was
        augmented. If the chunk has none, by an empty image whose label is ignored. `rows` are those of the part, if
        they are read already.
        """
        start, stop = EpochOrder(self.source.groups, self.seed, part.epoch, self.chunk_rows).chunk_of(part.start)
        images = np.full((part.stop - part.start, self.size, self.size, 3), self.border_color, np.uint8)
        labels = np.full((part.stop - part.start, self.size, self.size), IGNORE, np.uint8)
        bad: dict[int, SampleProblem] = {}
        taxonomy = self.source.labels_taxonomy
        for place, row in self.rows(part, bad_rows.COLUMNS) if rows is None else rows:
            pose = draw_pose(self.augmentation, self.seed, part.epoch, row["id"])
            factor = decode_factor(row["height"], row["width"], self.size, pose)
            try:
                decoded = bad_rows.decode_row(row, taxonomy, factor)
            except BadSampleError as error:
                bad[place] = bad_rows.problem_of(row, error)
            else:
                images[place], labels[place] = augment(*decoded, taxonomy, self.size, pose, self.border_color)
        if bad and (start, stop) != (part.start, part.stop):  # the nearest usable row may lie outside of the part
            whole = self.decode(ChunkPart(part.epoch, start, stop))
            return {name: column[part.start - start : part.stop - start] for name, column in whole.items()}
        for place, usable in _nearest_usable(len(labels), bad):
            images[place], labels[place] = images[usable], labels[usable]
        if self.records is not None:
            bad_rows.write_records(self.records, bad.values())
        return {"image": images, "label": labels}


def _nearest_usable(num_rows: int, bad: Collection[int]) -> Iterator[tuple[int, int]]:
    """Yields (bad place, nearest usable place) for each bad place, the earlier of two; nothing if none is usable."""
    usable = [place for place in range(num_rows) if place not in bad]
    if usable:
        yield from ((place, min(usable, key=lambda other: (abs(other - place), other))) for place in bad)


def _batched(chunks: Iterable[Columns], size: int) -> Iterator[Columns]:
    """Yields batches of `size` rows, cut across the chunks. An incomplete one at the end is left out."""
    waiting: list[Columns] = []
    for chunk in chunks:
        waiting.append(chunk)
        joined = {name: np.concatenate([one[name] for one in waiting]) for name in chunk}
        num_rows = len(next(iter(joined.values())))
        for start in range(0, num_rows - size + 1, size):
            yield {name: column[start : start + size] for name, column in joined.items()}
        waiting = [{name: column[num_rows - num_rows % size :] for name, column in joined.items()}]
