"""Tables that the steps of `ingest` hand to each other on storage, and the folder that they lie in."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage

FOLDER = ".listing"
"""Folder below the output, with a folder for each attempt. An output that holds nothing but hidden names is free."""
_ROWS_PER_GROUP = 4096


@contextmanager
def working_folder(out: str) -> Iterator[str]:
    """A folder below `out` for the tables of this attempt, deleted after the `with` block."""
    folder = storage.join(out, FOLDER, uuid.uuid4().hex[:12])
    try:
        yield folder
    finally:
        storage.delete_folder(folder)


def delete_all(out: str) -> None:
    """Deletes the tables of all attempts, also of killed ones."""
    storage.delete_folder(storage.join(out, FOLDER))


def write_table(uri: str, table: pa.Table) -> None:
    """Writes a table whose rows `read_table` can select without reading all."""
    written = BytesIO()
    pq.write_table(table, written, row_group_size=_ROWS_PER_GROUP, compression="zstd")
    storage.write_bytes(uri, written.getvalue())


def read_table(uri: str, columns: list[str] | None = None, rows: pc.Expression | None = None) -> pa.Table:
    """The given columns, or all of them, of all rows or of those for which the expression is true, in order."""
    with storage.user_errors("read", uri):
        return pq.read_table(storage.open_input(uri), columns=columns, filters=rows, use_threads=False)
