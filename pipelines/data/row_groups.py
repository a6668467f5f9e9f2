"""The files of a split as tasks receive them, and reads of their rows."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dmlcsr.taxonomy import Taxonomy
from pipelines import storage
from pipelines.config.base import Split
from pipelines.data.bases import FileRef
from pipelines.data.dataset import Manifest
from pipelines.data.order import Groups, Integers, RowRange, fold_of
from pipelines.data.versions import COLUMNS, IMAGE_COLUMNS, RULE
from pipelines.errors import DataSetError, StorageFailedError, UserError

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
    """URIs of the files of the labels."""
    file_bytes: Integers
    image_files: Names
    """URIs of the files of the images; a file that holds both is in `files` too."""
    image_bytes: Integers
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
    labels = images = _located(uri, manifest, files)
    if any(file.images for file in files):  # otherwise one block of memory serves both
        images = _located(uri, manifest, [file.images or file for file in files])
    return SplitFiles(
        files=labels[0],
        file_bytes=labels[1],
        image_files=images[0],
        image_bytes=images[1],
        groups=Groups(np.array([file.num_rows for file in files], np.int64), manifest.rows_per_group, held_out),
        taxonomy=manifest.label_taxonomy,
        digest=manifest.digest,
    )


def _located(uri: str, manifest: Manifest, files: Sequence[FileRef]) -> tuple[Names, Integers]:
    """The URIs of files of a data set, and their sizes in bytes."""
    sizes = np.array([file.num_bytes for file in files], np.int64)
    return Names(manifest.locate(uri, file) for file in files), sizes


class _Footers:
    """The footers of the files that this process has read last: with its footer known, a row group is one request."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, str], pq.FileMetaData] = OrderedDict()
        self._lock = Lock()

    def find(self, key: tuple[str, int, str]) -> pq.FileMetaData | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()

    def keep(self, key: tuple[str, int, str], footer: pq.FileMetaData) -> None:
        with self._lock:
            self._kept[key] = footer
            while len(self._kept) > 1 and sum(kept.serialized_size for kept in self._kept.values()) > _FOOTER_BYTES:
                self._kept.popitem(last=False)


_footers = _Footers()


class _Place(NamedTuple):
    """A file to read: its URI, its size in bytes, and the digest of the data set that refers to it.

    Data sets may have been at the same URI one after another; the digest distinguishes their files.
    """

    uri: str
    num_bytes: int
    digest: str


def _labels_of(source: SplitFiles, file: int) -> _Place:
    return _Place(source.files[file], int(source.file_bytes[file]), source.digest)


def _images_of(source: SplitFiles, file: int) -> _Place:
    return _Place(source.image_files[file], int(source.image_bytes[file]), source.digest)


def forget_footers() -> None:
    """Makes the next read of each file ask for its footer, as the first one does."""
    _footers.clear()


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    """Raises faults of a file as DataSetError, and faults of the storage as they are."""
    try:
        with storage.user_errors("read", uri):
            yield
    except StorageFailedError:
        raise
    except UserError as error:
        raise DataSetError(str(error)) from error


def _open(place: _Place) -> pq.ParquetFile:
    """Opens a file of a data set, without a request if its footer is known.

    Raises ValueError if the file has other columns than a data set.
    """
    footer = _footers.find(place)
    file = pq.ParquetFile(storage.open_input(place.uri, place.num_bytes), metadata=footer, pre_buffer=True)
    if footer is None:
        columns = list(file.schema_arrow)
        known = all(column.equals(COLUMNS.field(column.name)) for column in columns if column.name in COLUMNS.names)
        if not known or len({column.name for column in columns}) < len(columns):
            raise ValueError("it is not a file of a data set, because it has other columns")
        _footers.keep(place, file.metadata)
    return file


def _read_group(place: _Place, piece: RowRange, columns: Sequence[str]) -> pa.Table:
    """Reads rows of a row group. Raises UserError if it lacks rows or columns, or if it is compressed.

    Data sets are not compressed, and a few compressed bytes could expand to any number of rows.
    """
    with _reading(place.uri), closing(_open(place)) as file:
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
    labels, images = _labels_of(source, piece.file), _images_of(source, piece.file)
    from_images = [name for name in columns if name in IMAGE_COLUMNS]
    others = [name for name in columns if name not in IMAGE_COLUMNS]
    if labels == images or not from_images:
        return _rows(_read_group(labels, piece, columns))
    if not others:
        return _rows(_read_group(images, piece, columns))
    found = _read_group(labels, piece, list(dict.fromkeys(["id", *others])))
    pictures = _read_group(images, piece, ["id", *from_images])
    if not found["id"].equals(pictures["id"]):
        raise DataSetError(f"{labels.uri} and {images.uri} hold different rows; make the version again with `relabel`")
    for name in from_images:
        found = found.append_column(name, pictures[name])
    return _rows(found.select([name for name in found.column_names if name in columns]))


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
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
    """Reads the rows of the pieces, in order. The column `rule` is left out of rows whose file has none.

    Raises UserError if a file cannot be read.
    """
    return [row for rows in read_pieces(source, pieces, columns) for row in rows]


def rows_of_file(source: SplitFiles, file: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file in order; one row group is in memory at a time."""
    for group in source.groups.of_file(file):
        yield from read_rows(source, [source.groups.whole(group)], columns)


def columns_of_file(source: SplitFiles, file: int) -> list[str]:
    """The names of the columns of the rows of a file."""
    names: list[str] = []
    for place in dict.fromkeys([_images_of(source, file), _labels_of(source, file)]):
        with _reading(place.uri), closing(_open(place)) as opened:
            names += opened.schema_arrow.names
    return list(dict.fromkeys(names))


def column_bytes(source: SplitFiles, file: int, name: str) -> int:
    """The number of bytes of a column in the file of the labels. Raises UserError if the file cannot be read."""
    place = _labels_of(source, file)
    with _reading(place.uri), closing(_open(place)) as opened:
        column = opened.schema_arrow.get_field_index(name)
        groups = [opened.metadata.row_group(number) for number in range(opened.metadata.num_row_groups)]
    return sum(group.column(column).total_compressed_size for group in groups)
