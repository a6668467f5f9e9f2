"""Lists the names of sources and writes them to storage, sorted by a hash of what belongs together.

The hashes of a range, taken from all runs of names, are a bucket: nothing that belongs together is in two buckets. No
more names than those of a run are in memory.
"""

import logging
from collections.abc import Iterator
from heapq import nsmallest
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.config.commands import IngestConfig
from pipelines.ingest import pairing, splits
from pipelines.ingest.formats import FORMATS, IMAGE_SUFFIXES, FileRole, RawFormat
from pipelines.ingest.kinds import Kinds, in_words, suffix_of
from pipelines.ingest.label_files import LABEL
from pipelines.ingest.split_lists import is_bad, list_uris
from pipelines.ingest.tables import read_table, write_table

logger = logging.getLogger(__name__)
RUN_NAMES = 1 << 18
"""Number of names that are in memory at once, about 50 MB."""
BUCKET_NAMES = 1 << 17
"""Number of names in a bucket, which one task joins: about 150 MB."""
BAD_NAME = "bad name"
"""Role of a file whose name could lead out of its folder or cannot be shown."""
_SHOWN = 3
"""Number of names that are shown of a source without samples."""
_SCHEMA = pa.schema(
    [
        ("order", pa.uint64()),
        ("source", pa.int32()),
        ("file", pa.binary()),
        ("id", pa.string()),
        ("role", pa.string()),
    ]
)


class Name(NamedTuple):
    """A file: the number of its source, its path below it, and the sample and role of that path, None if ignored."""

    source: int
    file: str
    located: FileRole | None


class SourceFiles(NamedTuple):
    """The prefix, lists and kinds of files of one source."""

    prefix: str
    """Start of the ids of its samples."""
    lists: tuple[str, ...]
    """Its files `<split>_list.txt`. They name any files, so all names of the source are in one bucket."""
    kinds: Kinds
    first: list[str]

    def in_words(self) -> str:
        return in_words(self.kinds, self.first)


class Names(NamedTuple):
    """The names of all sources on storage."""

    runs: list[str]
    num_buckets: int
    sources: list[SourceFiles]
    ignored: Kinds
    """Files that are no images, of sources without lists."""


def write_names(config: IngestConfig, folder: str) -> Names:
    """Lists the sources and writes their names below `folder`. Raises UserError if a source does not exist."""
    raw_format = FORMATS[config.format]
    found = Names([], 1, [], Kinds())
    run = _Run(folder, found.runs)
    for number, (prefix, uri) in enumerate(zip(splits.id_prefixes(config.source), config.source, strict=True)):
        lists = list_uris(uri) if raw_format.has_split_lists else ()
        source = SourceFiles(prefix, tuple(lists), Kinds(), [])
        found.sources.append(source)
        order_of = Order(config, source)
        unread = set() if config.split_file else {storage.join(uri, name) for name in raw_format.list_files}
        unread |= {config.split_file} if config.split_file else set()
        for page in storage.list_pages(uri):
            paths = [file.removeprefix(uri).lstrip("/") for file in page]
            source.first[:] = nsmallest(_SHOWN, [*source.first, *paths])
            for file, path in zip(page, paths, strict=True):
                source.kinds.add(path)
                located = locate(raw_format, path)
                if located is None and not lists:
                    if file not in unread:
                        found.ignored.add(file)
                else:
                    run.add(order_of(path, located), number, path, located)
            run.flush(RUN_NAMES)
    run.flush(0)
    return found._replace(num_buckets=max(1, -(-run.num_names // BUCKET_NAMES)))


def locate(raw_format: RawFormat, name: str) -> FileRole | None:
    """Returns sample and role of a path below a source; None if the file is ignored."""
    if suffix_of(name).lower() not in IMAGE_SUFFIXES:
        return None
    path = PurePosixPath(name)
    if is_bad(path):
        return FileRole("", BAD_NAME)
    return raw_format.locate(path if name.isascii() else PurePosixPath(splits.composed(str(path))))


class Order:
    """The place of a file in the order of buckets: the hash of what it has in common with its partners."""

    def __init__(self, config: IngestConfig, source: SourceFiles) -> None:
        self.prefix, self.seed, self.has_lists = source.prefix, config.seed, bool(source.lists)
        self.suffixes = pairing.suffixes_of(config.label_suffix)
        self.has_one_label = FORMATS[config.format].parts == (LABEL,)
        self._last = ("", 0)

    def __call__(self, path: str, located: FileRole | None) -> int:
        return self.of_id(path if located is None or located.role == BAD_NAME else located.id)

    def of_id(self, name: str) -> int:
        """The place of all files of an id, and of the names that may be partners of it."""
        group = "" if self.has_lists else pairing.group_of(name, self.suffixes) if self.has_one_label else name
        if group != self._last[0] or not self._last[1]:
            self._last = (group, splits.order(self.prefix + group, self.seed))
        return self._last[1]


class _Run:
    """Names that are not written yet."""

    def __init__(self, folder: str, written: list[str]) -> None:
        self.folder, self.written, self.num_names = folder, written, 0
        self._tables: list[pa.Table] = []
        self._num_waiting = 0
        self._rows: list[tuple[Any, ...]] = []

    def add(self, order: int, source: int, path: str, located: FileRole | None) -> None:
        name, role = (None, None) if located is None else located
        self._rows.append((order, source, path.encode(errors="surrogateescape"), name, role))

    def flush(self, size: int) -> None:
        """Writes a run if more than `size` names are waiting."""
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
            self._tables.append(pa.Table.from_arrays(arrays, schema=_SCHEMA))
            self._num_waiting += len(self._rows)
            self._rows = []
        if self._num_waiting <= size:
            return
        table = pa.concat_tables(self._tables)
        self._tables, self._num_waiting = [], 0
        uri = storage.join(self.folder, f"names-{len(self.written):05d}.parquet")
        write_table(uri, table.take(pc.sort_indices(table["order"])))
        self.written.append(uri)
        self.num_names += table.num_rows
        logger.info("listed %d files", self.num_names)


def read_bucket(names: Names, bucket: int) -> list[list[Name]]:
    """The names of a bucket by source, sorted."""
    lowest, highest = (((bucket + end) << 64) // names.num_buckets for end in (0, 1))
    order = pc.field("order")
    inside = (order >= pa.scalar(lowest, pa.uint64())) & (order <= pa.scalar(highest - 1, pa.uint64()))
    found: list[list[Name]] = [[] for _ in names.sources]
    for uri in names.runs:
        for name in _names_of(read_table(uri, rows=inside)):
            found[name.source].append(name)
    for of_source in found:
        of_source.sort(key=lambda name: name.file)
    return found


def _names_of(table: pa.Table) -> Iterator[Name]:
    columns = (table[name].to_pylist() for name in ("source", "file", "id", "role"))
    for source, file, name, role in zip(*columns, strict=True):
        located = None if role is None else FileRole(name, role)
        yield Name(source, file.decode(errors="surrogateescape"), located)
