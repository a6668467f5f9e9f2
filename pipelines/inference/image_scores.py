"""The scores of single images: all of them as Parquet files, and the best and the worst ones in memory."""

import heapq
import io
from collections.abc import Iterable
from typing import NamedTuple, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage

FOLDER = "images"
_PART_ROWS = 8192
"""Number of rows of a split whose scores are in one file."""
_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("mean_f1", pa.float64()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


class ImageScore(NamedTuple):
    """The score of one image, and its row number in the split. `mean_f1` is over the classes that the image shows."""

    mean_f1: float
    row: int
    id: str


class ScoredRow(TypedDict):
    """A row of a split: `mean_f1`, or None and the `reason` why the row was left out, which is empty otherwise."""

    row: int
    id: str
    mean_f1: float | None
    reason: str


class Extremes:
    """The `num` best and the `num` worst images of those that were added."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.best: list[ImageScore] = []
        self.worst: list[ImageScore] = []

    def add(self, images: Iterable[ImageScore]) -> None:
        images = list(images)
        self.best = heapq.nlargest(self.num, [*self.best, *images])
        self.worst = heapq.nsmallest(self.num, [*self.worst, *images])


class PartWriter:
    """Writes the scored rows of a split as `images/part-<number>.parquet`, one file for each _PART_ROWS rows.

    The rows may come in any order. A file is written as soon as it is complete.
    """

    def __init__(self, out: str, num_rows: int) -> None:
        """Deletes the files of an earlier evaluation."""
        self._folder = storage.join(out, FOLDER)
        self._num_rows = num_rows
        self._waiting: dict[int, list[ScoredRow]] = {}
        storage.delete_folder(self._folder)

    def add(self, rows: Iterable[ScoredRow]) -> None:
        for row in rows:
            part = row["row"] // _PART_ROWS
            waiting = self._waiting.setdefault(part, [])
            waiting.append(row)
            if len(waiting) == min(_PART_ROWS, self._num_rows - part * _PART_ROWS):
                self._write(part, self._waiting.pop(part))

    def _write(self, part: int, rows: list[ScoredRow]) -> None:
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["row"]), schema=_SCHEMA)
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        storage.write_bytes(storage.join(self._folder, f"part-{part:05d}.parquet"), buffer.getvalue())
