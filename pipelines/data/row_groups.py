"""Finds the row groups that hold given rows of an epoch, and reads these rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dmlcsr.taxonomy import Taxonomy
from pipelines import storage
from pipelines.config.base import Split
from pipelines.data.dataset import SCHEMA, Manifest
from pipelines.errors import UserError

Integers = npt.NDArray[np.int64]


class RowRange(NamedTuple):
    """Rows `start` to before `stop` of the row group `group` (its number in the file) of file `file`, from 0."""

    file: int
    group: int
    start: int
    stop: int


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split of a data set, with the row counts that locate each row group.

    Every Ray task receives it, so it stores nothing per row group: there may be hundreds of thousands of them.
    """

    files: tuple[str, ...]
    file_rows: tuple[int, ...]
    rows_per_group: int
    """Number of rows in every row group; the last one of a file may have fewer."""
    taxonomy: Taxonomy | None
    """Classes of the labels; None if no row has a label."""
    digest: str
    held_out: tuple[int, int] | None = None
    """(k, K) with k from 1: the row groups k, k + K, k + 2K, ..., counted from 1, are not read. None: all are read."""

    @property
    def num_rows(self) -> int:
        return int(list_groups(self).num_rows.sum())


def fold_of(group: Any, num_folds: int) -> Any:
    """The folds, counted from 1, of row groups with these numbers in the split, counted from 0."""
    return group % num_folds + 1


def open_split(uri: str, manifest: Manifest, split: Split, held_out: tuple[int, int] | None = None) -> SplitFiles:
    files = manifest.splits.get(split, ())
    uris = tuple(storage.join(uri, file.path) for file in files)
    counts = tuple(file.num_rows for file in files)
    return SplitFiles(uris, counts, manifest.rows_per_group, manifest.label_taxonomy, manifest.digest, held_out)


class Groups(NamedTuple):
    """Row groups of a split, in order, as arrays (G,): number of the file, number in the file, number of rows."""

    file: Integers
    group: Integers
    num_rows: Integers


@lru_cache(maxsize=4)
def list_groups(source: SplitFiles) -> Groups:
    """All row groups of a split, without those of the held-out fold."""
    rows = np.array(source.file_rows, np.int64)
    counts = -(-rows // source.rows_per_group)
    file = np.repeat(np.arange(len(rows)), counts)
    group = np.arange(len(file)) - (np.cumsum(counts) - counts)[file]
    if source.held_out is not None:
        fold, num_folds = source.held_out
        kept = fold_of(np.arange(len(file)), num_folds) != fold
        file, group = file[kept], group[kept]
    return Groups(file, group, np.minimum(source.rows_per_group, rows[file] - group * source.rows_per_group))


@lru_cache(maxsize=4)
def _sequence(source: SplitFiles, seed: int | None, epoch: int) -> tuple[Integers, Integers]:
    """(G,) order of the row groups in an epoch, not shuffled if `seed` is None, and (G + 1,) bounds of their rows."""
    lengths = list_groups(source).num_rows
    order = np.arange(len(lengths))
    if seed is not None:
        order = np.random.default_rng([seed, epoch]).permutation(order)
    return order, np.concatenate([[0], np.cumsum(lengths[order])])


def locate_rows(source: SplitFiles, seed: int | None, epoch: int, start: int, stop: int) -> list[RowRange]:
    """The parts of row groups that hold rows `start` to before `stop` of an epoch's sequence of rows."""
    order, begins = _sequence(source, seed, epoch)
    first = int(np.searchsorted(begins, start, side="right")) - 1
    last = int(np.searchsorted(begins, stop))
    groups = list_groups(source)
    return [
        RowRange(
            file=int(groups.file[index]),
            group=int(groups.group[index]),
            start=max(0, start - begin),
            stop=min(int(groups.num_rows[index]), stop - begin),
        )
        for index, begin in zip(order[first:last].tolist(), begins[first:last].tolist(), strict=True)
    ]


@lru_cache(maxsize=64)
def _open(uri: str, digest: str) -> pq.ParquetFile:
    """An open file of a data set, cached. `digest` distinguishes data sets that were at the same URI one after another.

    Raises UserError if the file has other columns than a data set.
    """
    file = pq.ParquetFile(storage.open_input(uri), pre_buffer=True)
    if not SCHEMA.equals(pa.schema(list(file.schema_arrow)[: len(SCHEMA)])):
        raise UserError(f"{uri} is not a file of a data set: it has other columns")
    return file


def _read_group(file: pq.ParquetFile, piece: RowRange, columns: Sequence[str]) -> pa.Table:
    """Reads rows of a row group. Raises ValueError if it lacks rows or columns, or if it is compressed.

    Data sets are not compressed, and a few compressed bytes could expand to any number of rows.
    """
    group = file.metadata.row_group(piece.group)
    stored = [group.column(index) for index in range(group.num_columns)]
    if any(column.compression != "UNCOMPRESSED" or column.has_dictionary_page for column in stored):
        raise ValueError(f"row group {piece.group} is compressed or has a dictionary; a data set has neither")
    table: pa.Table = file.read_row_group(piece.group, columns=list(columns))
    if table.num_rows < piece.stop or not set(columns) <= set(table.column_names):
        raise ValueError(f"row group {piece.group} has fewer rows than in the manifest, or lacks a column")
    return table.slice(piece.start, piece.stop - piece.start)


def read_rows(source: SplitFiles, pieces: Sequence[RowRange], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Reads the rows of the pieces, in order. Raises UserError if a file cannot be read."""
    rows: list[dict[str, Any]] = []
    for piece in pieces:
        uri = source.files[piece.file]
        with storage.user_errors("read", uri):
            rows += _read_group(_open(uri, source.digest), piece, columns).to_pylist()
    return rows
