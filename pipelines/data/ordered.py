"""All rows of a split once, in order and without augmentation: what validations and evaluations read."""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import ray.data

from dmlcsr.image_files import BadSampleError
from dmlcsr.predict import to_canvas
from dmlcsr.weights import Preprocessing
from pipelines.data import bad_rows, decode_tasks, row_groups
from pipelines.data.decode_tasks import Columns
from pipelines.data.packing import SampleProblem
from pipelines.data.row_groups import SplitFiles

_CHUNK_ROWS = 16
"""Number of rows in a chunk, rounded down to whole row groups."""
_NO_PROBLEM = SampleProblem(source="", reason="", detail="")


@dataclass(frozen=True, kw_only=True)
class OrderedRows:
    """The rows of a split, or those of one of several workers: each has a contiguous share, which may be empty.

    Columns: `row` (number in the split), `id`, `image` (S, S, 3) uint8 canvas, `label` (PNG bytes), `reason` and
    `detail`. The last two are empty if the row can be used; if not, its image is empty.
    """

    source: SplitFiles
    preprocessing: Preprocessing
    """The size S of the canvas, and its color outside the image."""
    rank: int = 0
    world_size: int = 1
    records: str | None = None
    """Folder for records of the rows that cannot be used; None: there are no records."""

    @property
    def _bounds(self) -> tuple[int, int]:
        start, stop = (self.source.num_rows * part // self.world_size for part in (self.rank, self.rank + 1))
        return start, stop

    @property
    def _groups_per_chunk(self) -> int:
        return max(1, _CHUNK_ROWS // self.source.groups.rows_per_group)

    @property
    def _groups(self) -> range:
        """The row groups that hold the rows, by their index among those that are read."""
        start, stop = self._bounds
        index_of = self.source.groups.index_of_row
        return range(index_of(start), index_of(stop - 1) + 1) if stop > start else range(0)

    @property
    def num_chunks(self) -> int:
        return math.ceil(len(self._groups) / self._groups_per_chunk)

    def chunk_bounds(self, chunk: int) -> tuple[int, int]:
        """The first row of a chunk in the split, and the row after its last. Chunks begin where a row group begins."""
        first = self._groups.start + chunk * self._groups_per_chunk
        start, stop = (self.source.groups.first_row(index) for index in (first, first + self._groups_per_chunk))
        return max(self._bounds[0], start), min(self._bounds[1], stop)

    def chunks(self) -> Iterator[Columns]:
        """Yields the chunks, decoded in this process."""
        return map(self.decode, range(self.num_chunks))

    def batches(self, batch_size: int, tasks_at_once: int) -> Generator[Columns, None, None]:
        """Yields the rows in batches, decoded in tasks on the cluster.

        The last one of every `MAX_TASKS` chunks may be smaller.
        """
        for first in range(0, self.num_chunks, decode_tasks.MAX_TASKS):
            number = min(decode_tasks.MAX_TASKS, self.num_chunks - first)
            yield from self._window(first, number, tasks_at_once).iter_batches(batch_size=batch_size)

    def _window(self, first: int, number: int, tasks_at_once: int) -> ray.data.Dataset:
        chunk_bytes = _CHUNK_ROWS * self.preprocessing.size**2 * 4
        return decode_tasks.decoded_in_order(
            number, lambda chunk: [self.decode(first + chunk)], tasks_at_once, chunk_bytes
        )

    def ray_dataset(self) -> ray.data.Dataset:
        """A Ray Data set of the rows, in any order. Each task decodes several chunks if there are many."""
        each = math.ceil(self.num_chunks / decode_tasks.MAX_TASKS)

        def decode(task: int) -> Iterator[Columns]:
            return map(self.decode, range(task * each, min((task + 1) * each, self.num_chunks)))

        return decode_tasks.decoded_in_tasks(math.ceil(self.num_chunks / each), decode)

    def decode(self, chunk: int) -> Columns:
        """Reads and decodes the rows of a chunk."""
        start, stop = self.chunk_bounds(chunk)
        rows = row_groups.read_rows(self.source, self.source.groups.locate(start, stop), bad_rows.COLUMNS)
        size = self.preprocessing.size
        canvases = np.full((len(rows), size, size, 3), self.preprocessing.border_color, np.uint8)
        bad: dict[int, SampleProblem] = {}
        for index, row in enumerate(rows):
            try:
                image, _ = bad_rows.decode_row(row, self.source.labels_taxonomy)
                canvases[index] = to_canvas(image, self.preprocessing)
            except BadSampleError as error:
                bad[index] = bad_rows.problem_of(row, error)
        if self.records is not None:
            bad_rows.write_records(self.records, bad.values())
        problems = [bad.get(index, _NO_PROBLEM) for index in range(len(rows))]
        return {
            "row": np.arange(start, stop),
            "id": np.array([row["id"] for row in rows], object),
            "image": canvases,
            "label": np.array([row["label"] for row in rows], object),
            "reason": np.array([problem["reason"] for problem in problems], object),
            "detail": np.array([problem["detail"] for problem in problems], object),
        }
