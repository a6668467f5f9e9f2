"""Reads Parquet files of any origin: footers, names of rows, and row groups in batches.

Sizes are checked before anything is read, because a small file can state any size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dmlcsr.image_files import BadSampleError
from pipelines import storage
from pipelines.data.packing import SampleProblem
from pipelines.errors import UserError
from pipelines.ingest.parquet_columns import Columns, Leaf, has_columns

MAX_GROUP_BYTES = 1 << 30
"""Limit on the stated, uncompressed size of the columns that are read of a row group."""
MAX_FILE_ROWS = 1_000_000
"""Limit on the stated number of rows of a file."""
MAX_NAME_LENGTH = 255
_BATCH_BYTES = 64 << 20
"""Largest size of a batch of images and labels, unless a single row is larger."""
_FETCHED_BYTES = 8 << 20
"""Size of one read from storage."""
_MAX_BATCH_ROWS = 64
_NAMES_PER_BATCH = 1 << 16


class FileRows(NamedTuple):
    """The stated content of one file. `names` has a name for each row, None if it has none, or is None itself."""

    uri: str
    group_rows: list[int]
    image_bytes: int
    names: list[str | None] | None


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Raises BadSampleError if a file is damaged, and UserError if it cannot be reached."""
    try:
        with storage.user_errors("read", uri):
            yield
    except UserError as error:
        if not storage.is_damage(error.__cause__):
            raise
        raise BadSampleError("unreadable", " ".join(str(error).split())) from error


def opened(uri: str) -> pq.ParquetFile:
    """The file, whose columns are fetched piece by piece."""
    return pq.ParquetFile(storage.open_input(uri), buffer_size=_FETCHED_BYTES)


def inspect(uri: str, columns: Columns) -> FileRows | SampleProblem:
    """The row groups and names of a file, or the reason why it cannot be used."""
    try:
        with reading(uri):
            file = opened(uri)
            if not has_columns(file.schema_arrow, columns):
                raise ValueError("it lacks a column that the first file has, or has it with another type")
            metadata = file.metadata
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            rows = [group.num_rows for group in groups]
            if min(rows, default=0) < 0 or sum(rows) > MAX_FILE_ROWS:
                raise ValueError(f"it states {sum(rows)} rows; at most {MAX_FILE_ROWS} are read from a file")
            sizes = [_image_bytes(uri, number, group, columns) for number, group in enumerate(groups)]
            names = None if columns.names is None else _names(file, columns.names)
            if names is not None and len(names) != sum(rows):
                raise ValueError(f"it states {sum(rows)} rows and holds {len(names)}")
            return FileRows(uri, rows, sum(sizes), names)
    except BadSampleError as error:
        return SampleProblem(source=uri, reason=error.reason, detail=str(error))


def stated_sizes(group: Any, names: Sequence[str]) -> list[int]:
    """The stated, uncompressed sizes of columns of a row group. Raises ValueError if it lacks one of them."""
    chunks = [group.column(index) for index in range(group.num_columns)]
    sizes = {chunk.path_in_schema: int(chunk.total_uncompressed_size) for chunk in chunks}
    if missing := [name for name in names if name not in sizes]:
        raise ValueError(f"it has no column {missing[0]}")
    if (least := min(sizes[name] for name in names)) < 0:
        raise ValueError(f"it states a size of {least} bytes")
    return [sizes[name] for name in names]


def _image_bytes(uri: str, number: int, group: Any, columns: Columns) -> int:
    """The stated size of the images of a row group. Raises UserError if what is read of the group is too large."""
    read = [".".join(leaf) for leaf in (*columns.contents, columns.names) if leaf is not None]
    image, *others = stated_sizes(group, read)
    if (total := image + sum(others)) > MAX_GROUP_BYTES:
        raise UserError(
            f"row group {number} of {uri} states {total:,} bytes of {', '.join(read)}; at most {MAX_GROUP_BYTES:,} are "
            "read, so write the file again with smaller row groups"
        )
    return image


def _names(file: pq.ParquetFile, leaf: Leaf) -> list[str | None]:
    """The name of each row; None if it has none, or one that is too long for a name."""
    names: list[str | None] = []
    for number in range(file.num_row_groups):
        size = _rows_at_once(file.metadata.row_group(number), [".".join(leaf)], MAX_GROUP_BYTES, _NAMES_PER_BATCH)
        for batch in file.iter_batches(size, row_groups=[number], columns=[".".join(leaf)], use_threads=False):
            found = ("" if value is None else str(value) for value in _column(batch, leaf).to_pylist())
            names += [name if 0 < len(name) <= MAX_NAME_LENGTH else None for name in found]
    return names


def _rows_at_once(group: Any, names: Sequence[str], num_bytes: int, most: int) -> int:
    """The number of rows of a batch of at most `num_bytes`: a dictionary can repeat one large value in every row."""
    return int(np.clip(num_bytes // max(sum(stated_sizes(group, names)), 1), 1, most))


def _column(batch: pa.RecordBatch, leaf: Leaf) -> pa.Array:
    """The column, through its structs; a row whose struct is missing has no value."""
    array = batch.column(leaf[0])
    for name in leaf[1:]:
        array = array.flatten()[array.type.get_field_index(name)]
    return array


def read_group(uri: str, number: int, columns: Columns) -> Iterator[tuple[int, list[Any]]]:
    """Yields the number in the file, and image and label, of each row of a row group. Reads it in batches."""
    with reading(uri):
        file = opened(uri)
        row = sum(file.metadata.row_group(before).num_rows for before in range(number))
        leaves = [".".join(leaf) for leaf in columns.contents]
        size = _rows_at_once(file.metadata.row_group(number), leaves, _BATCH_BYTES, _MAX_BATCH_ROWS)
        for batch in file.iter_batches(size, row_groups=[number], columns=leaves, use_threads=False):
            arrays = [_column(batch, leaf) for leaf in columns.contents]
            for index in range(batch.num_rows):
                yield row, [array[index].as_py() for array in arrays]
                row += 1
