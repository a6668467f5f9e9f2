"""Finds the row groups that hold given rows of an epoch, and reads these rows."""

from collections.abc import Iterator, Sequence
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
from pipelines.data.dataset import Manifest
from pipelines.data.versions import COLUMNS, IMAGE_COLUMNS, RULE
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
    """The files of the labels, by their URIs."""
    file_rows: tuple[int, ...]
    rows_per_group: int
    """Number of rows in every row group; the last one of a file may have fewer."""
    taxonomy: Taxonomy | None
    """Classes of the labels; None if no row has a label."""
    digest: str
    image_files: tuple[str, ...]
    """The files with the images of the same rows; a file that holds both is in `files` too."""
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
    labels = tuple(manifest.locate(uri, file) for file in files)
    images = (
        manifest.locate(uri, file.images) if file.images else label for file, label in zip(files, labels, strict=True)
    )
    return SplitFiles(
        files=labels,
        file_rows=tuple(file.num_rows for file in files),
        rows_per_group=manifest.rows_per_group,
        taxonomy=manifest.label_taxonomy,
        digest=manifest.digest,
        image_files=tuple(images),
        held_out=held_out,
    )


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

    Raises ValueError if the file has other columns than a data set.
    """
    file = pq.ParquetFile(storage.open_input(uri), pre_buffer=True)
    columns = list(file.schema_arrow)
    names = [column.name for column in columns]
    known = all(column.equals(COLUMNS.field(column.name)) for column in columns if column.name in COLUMNS.names)
    if not known or len(set(names)) < len(names):
        raise ValueError("it is not a file of a data set: it has other columns")
    return file


def _read_group(source: SplitFiles, uri: str, piece: RowRange, columns: Sequence[str]) -> pa.Table:
    """Reads rows of a row group. Raises UserError if it lacks rows or columns, or if it is compressed.

    Data sets are not compressed, and a few compressed bytes could expand to any number of rows.
    """
    with storage.user_errors("read", uri):
        file = _open(uri, source.digest)
        group = file.metadata.row_group(piece.group)
        stored = [group.column(index) for index in range(group.num_columns)]
        if any(column.compression != "UNCOMPRESSED" or column.has_dictionary_page for column in stored):
            raise ValueError(f"row group {piece.group} is compressed or has a dictionary; a data set has neither")
        table: pa.Table = file.read_row_group(piece.group, columns=list(columns))
        if table.num_rows < piece.stop or not set(columns) - {RULE} <= set(table.column_names):
            raise ValueError(f"row group {piece.group} has fewer rows than in the manifest, or lacks a column")
        return table.slice(piece.start, piece.stop - piece.start)


def _read_piece(source: SplitFiles, piece: RowRange, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Reads the rows of one piece: the columns of the image from its file, all others from the file of the labels.

    Raises UserError if a file cannot be read, or if the two files hold other rows.
    """
    labels, images = source.files[piece.file], source.image_files[piece.file]
    from_images = [name for name in columns if name in IMAGE_COLUMNS]
    if labels == images or not from_images:
        return _rows(_read_group(source, labels, piece, columns))
    others = [name for name in columns if name not in IMAGE_COLUMNS]
    if not others:
        return _rows(_read_group(source, images, piece, columns))
    first, second = (
        _read_group(source, labels, piece, list(dict.fromkeys(["id", *others]))),
        _read_group(source, images, piece, ["id", *from_images]),
    )
    if not first["id"].equals(second["id"]):
        raise UserError(f"{labels} and {images} hold different rows; make the version again with `relabel`")
    for name in from_images:
        first = first.append_column(name, second[name])
    return _rows(first.select([name for name in first.column_names if name in columns]))


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def read_rows(source: SplitFiles, pieces: Sequence[RowRange], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Reads the rows of the pieces, in order. The column `rule` is left out of rows whose file has none.

    Raises UserError if a file cannot be read.
    """
    return [row for piece in pieces for row in _read_piece(source, piece, columns)]


def groups_of_file(source: SplitFiles, file: int) -> list[RowRange]:
    """The row groups of a file, in order, with all of their rows."""
    num_rows, size = source.file_rows[file], source.rows_per_group
    return [
        RowRange(file, group, 0, min(size, num_rows - first)) for group, first in enumerate(range(0, num_rows, size))
    ]


def rows_of_file(source: SplitFiles, file: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file in order; one row group is in memory at a time."""
    for piece in groups_of_file(source, file):
        yield from read_rows(source, [piece], columns)


def columns_of_file(source: SplitFiles, file: int) -> list[str]:
    """The names of the columns of the rows of a file."""
    names: list[str] = []
    for uri in (source.image_files[file], source.files[file]):
        with storage.user_errors("read", uri):
            names += _open(uri, source.digest).schema_arrow.names
    return list(dict.fromkeys(names))
