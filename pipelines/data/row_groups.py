"""The files of a split as tasks receive them, and reads of their rows."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from threading import Lock
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dmlcsr.taxonomy import Taxonomy
from pipelines import storage
from pipelines.config.base import Split
from pipelines.data.dataset import SCHEMA, Manifest
from pipelines.data.order import Groups, Integers, RowRange, fold_of

__all__ = ["RowRange", "SplitFiles", "fold_of", "open_split", "read_pieces", "read_rows"]
_READ_AT_ONCE = 16
"""Maximum number of parts of row groups that are read at the same time."""
_FOOTER_BYTES = 1 << 20
"""Maximum number of bytes of the footers that a process keeps. In memory they take about 16 times as much."""


class Names(Sequence[str]):
    """Strings in one block of memory. Processes of a node that receive them from Ray share this block."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = pa.array(names, pa.string())

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        found: str | list[str]
        found = self._names[index].to_pylist() if isinstance(index, slice) else self._names[index].as_py()
        return found


@dataclass(frozen=True, eq=False)
class SplitFiles:
    """The files of one split of a data set.

    Every Ray task receives it. What has a value for each file is an array, which Ray stores once and gives to all tasks
    of a node without copying it.
    """

    files: Names
    """URIs of the files."""
    file_bytes: Integers
    groups: Groups
    taxonomy: Taxonomy | None
    """Classes of the labels; None if no row has a label."""
    digest: str

    @property
    def num_rows(self) -> int:
        return self.groups.num_rows

    @property
    def labels_taxonomy(self) -> Taxonomy:
        """The classes of the labels, in a command that has checked that there are labels."""
        assert self.taxonomy is not None, "a command that needs labels begins with labelled rows"
        return self.taxonomy


def open_split(uri: str, manifest: Manifest, split: Split, held_out: tuple[int, int] | None = None) -> SplitFiles:
    files = manifest.splits.get(split, ())
    rows, sizes = (np.array([getattr(file, name) for file in files], np.int64) for name in ("num_rows", "num_bytes"))
    return SplitFiles(
        files=Names(storage.join(uri, file.path) for file in files),
        file_bytes=sizes,
        groups=Groups(rows, manifest.rows_per_group, held_out),
        taxonomy=manifest.label_taxonomy,
        digest=manifest.digest,
    )


class _Footers:
    """The footers of the files that this process has read last: with its footer known, a row group is one request."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], pq.FileMetaData] = OrderedDict()
        self._lock = Lock()

    def find(self, key: tuple[str, str]) -> pq.FileMetaData | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()

    def keep(self, key: tuple[str, str], footer: pq.FileMetaData) -> None:
        with self._lock:
            self._kept[key] = footer
            while len(self._kept) > 1 and sum(kept.serialized_size for kept in self._kept.values()) > _FOOTER_BYTES:
                self._kept.popitem(last=False)


_footers = _Footers()


def forget_footers() -> None:
    """Makes the next read of each file ask for its footer, as the first one does."""
    _footers.clear()


def _open(source: SplitFiles, number: int) -> pq.ParquetFile:
    """Opens a file of a data set, without a request if its footer is known.

    Raises ValueError if the file has other columns than a data set.
    """
    uri = source.files[number]
    key = uri, source.digest  # data sets may have been at the same URI one after another
    footer = _footers.find(key)
    opened = storage.open_input(uri, int(source.file_bytes[number]))
    file = pq.ParquetFile(opened, metadata=footer, pre_buffer=True)
    if footer is None:
        if not SCHEMA.equals(pa.schema(list(file.schema_arrow)[: len(SCHEMA)])):
            raise ValueError("it is not a file of a data set, because it has other columns")
        _footers.keep(key, file.metadata)
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


def _read_piece(source: SplitFiles, piece: RowRange, columns: Sequence[str]) -> list[dict[str, Any]]:
    with storage.user_errors("read", source.files[piece.file]), closing(_open(source, piece.file)) as file:
        rows: list[dict[str, Any]] = _read_group(file, piece, columns).to_pylist()
    return rows


def read_pieces(
    source: SplitFiles, pieces: Sequence[RowRange], columns: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of each piece, in order; the pieces are read side by side.

    Raises UserError if a file cannot be read.
    """
    with ThreadPoolExecutor(_READ_AT_ONCE) as threads:
        yield from threads.map(lambda piece: _read_piece(source, piece, columns), pieces)


def read_rows(source: SplitFiles, pieces: Sequence[RowRange], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Reads the rows of the pieces, in order. Raises UserError if a file cannot be read."""
    return [row for rows in read_pieces(source, pieces, columns) for row in rows]
