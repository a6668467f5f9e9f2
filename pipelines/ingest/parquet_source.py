"""Lists and reads the rows of an existing Parquet data set, such as one in the layout of Hugging Face.

Listing reads the footers and, if rows have names, the column of names; tasks read images and labels.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from dmlcsr.image_files import BadSampleError
from pipelines import storage
from pipelines.config.base import Split
from pipelines.config.commands import IngestConfig
from pipelines.data.packing import SampleProblem
from pipelines.errors import UserError
from pipelines.ingest import splits
from pipelines.ingest.hashes import Hashes, repeated
from pipelines.ingest.kinds import Kinds
from pipelines.ingest.label_files import LABEL
from pipelines.ingest.listing import Listing
from pipelines.ingest.parquet_columns import Columns, find_columns
from pipelines.ingest.parquet_files import MAX_NAME_LENGTH, FileRows, inspect, opened, read_group, reading
from pipelines.ingest.raw_files import RawSample
from pipelines.ingest.samples import UNUSABLE, find_samples, number_of, sample_schema
from pipelines.ingest.split_file import SplitFile
from pipelines.ingest.split_lists import is_bad
from pipelines.ingest.tables import read_table, write_table

SUFFIX = ".parquet"
_NUM_THREADS = 16
"""Number of files that are inspected at once."""
_SPLIT = re.compile(rf"({'|'.join(sorted(splits.SPLIT_NAMES, key=len, reverse=True))})(?![a-z])")


_SCHEMA = sample_schema(
    pa.field("uri", pa.string()),
    pa.field("group", pa.int32()),
    pa.field("row", pa.int32()),
    pa.field("id", pa.string()),
)


class Item(NamedTuple):
    """A row of the source: the file, the row group, the number of the row in the file, and its id."""

    uri: str
    group: int
    row: int
    id: str

    @property
    def source(self) -> str:
        return f"{self.uri}#{self.row}"


class ParquetListing(NamedTuple):
    """The rows of the sources, in their order, the columns that hold them, and the mean size of an image."""

    listing: Listing
    columns: Columns
    mean_bytes: float


class Root(NamedTuple):
    """A source, and the start of the ids of its rows."""

    uri: str
    prefix: str


class ListedFile(NamedTuple):
    """A file whose rows are in a table."""

    root: Root
    uri: str
    table: str
    group_rows: list[int]
    image_bytes: int
    has_names: bool
    """True if each row has a name."""

    @property
    def num_rows(self) -> int:
        return sum(self.group_rows)


def list_rows(config: IngestConfig, folder: str) -> ParquetListing:
    """Lists all rows of the sources, in the order of the sources, with tables below `folder`.

    If there are several sources, ids begin with the name of theirs. Raises UserError if they hold no rows, if the
    columns are not clear, or if a row group is too large.
    """
    roots = [Root(*pair) for pair in zip(config.source, splits.id_prefixes(config.source), strict=True)]
    files, ignored = _files(config, roots)
    columns, rejected = _columns(config, [uri for uri, _ in files])
    tables = _Tables(config, folder, columns)
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        inspected = list(threads.map(tables.write, *zip(*files[len(rejected) :], strict=True)))
        rejected += [problem for problem in inspected if not isinstance(problem, ListedFile)]
        found = [file for file in inspected if isinstance(file, ListedFile)]
        for root in roots:
            below = [file for file in found if file.root == root]
            if not _has_unique_names(columns, below):
                list(threads.map(tables.number_rows, below, _prefixes(root.uri, below)))
    num_rows = sum(file.num_rows for file in found)
    uris = [file.table for file in found]
    excluded = frozenset(repeated(partial(_hashes, found), num_rows))
    is_named = config.split_file is not None or any(file.num_rows and tables.split_of(file) for file in found)
    samples = find_samples(uris, () if is_named else (0,), config.splits, _item, _problem_of, excluded)
    num_left = num_rows - sum(samples.num_rows().values())

    def problems() -> Iterator[SampleProblem]:
        yield from rejected
        yield from samples.problems()

    listing = Listing(samples, len(rejected) + num_left, problems, ignored)
    return ParquetListing(listing, columns, sum(file.image_bytes for file in found) / max(num_rows, 1))


def _files(config: IngestConfig, roots: Sequence[Root]) -> tuple[list[tuple[str, Root]], Kinds]:
    """The Parquet files with their sources, in order, and the other files."""
    found, ignored = [], Kinds()
    for root in roots:
        files = []
        for uri in chain.from_iterable(storage.list_pages(root.uri)):
            if uri.lower().endswith(SUFFIX):
                files.append(uri)
            elif uri != config.split_file:
                ignored.add(uri)
        found += [(uri, root) for uri in sorted(files)]
    return found, ignored


def _columns(config: IngestConfig, files: Sequence[str]) -> tuple[Columns, list[SampleProblem]]:
    """The columns of the first readable file, and the damaged files before it."""
    rejected: list[SampleProblem] = []
    for uri in files:
        try:
            with reading(uri):
                schema = opened(uri).schema_arrow
        except BadSampleError as error:
            rejected.append(SampleProblem(source=uri, reason=error.reason, detail=str(error)))
            continue
        return find_columns(schema, config.columns or {}, uri), rejected
    first = f"; the first: {rejected[0]['detail']}" if rejected else ""
    raise UserError(f"{', '.join(config.source)} holds {len(files)} {SUFFIX} files, none of which can be read{first}")


class _Tables:
    """Writes a table of the rows of each file. The names of a file are in memory only while its table is written."""

    def __init__(self, config: IngestConfig, folder: str, columns: Columns) -> None:
        self.config, self.folder, self.columns = config, folder, columns
        self.named = None if config.split_file is None else SplitFile(config.split_file)

    def split_of(self, file: ListedFile) -> Split | None:
        """The split that the name of a file gives to its rows."""
        return None if self.named is not None else split_of_file(file.root.uri, file.uri)

    def write(self, uri: str, root: Root) -> ListedFile | SampleProblem:
        """Writes the table of a file, or returns the reason why it cannot be used."""
        found = inspect(uri, self.columns)
        if not isinstance(found, FileRows):
            return found
        table = storage.join(self.folder, f"rows-{splits.rank(uri, 0).hex()[:32]}.parquet")
        names = found.names
        has_names = names is not None and all(names)
        file = ListedFile(root, uri, table, found.group_rows, found.image_bytes, has_names)
        if names is not None and (has_names or self.columns.id is not None):
            of_paths = self.columns.id is None
            self._write(file, [PurePosixPath(name or "").stem if of_paths else name for name in names])
        return file

    def number_rows(self, file: ListedFile, prefix: str) -> None:
        """Writes the table of a file whose rows have no names of their own."""
        self._write(file, [f"{prefix}-{row}" for row in range(file.num_rows)])

    def _write(self, file: ListedFile, names: Sequence[str | None]) -> None:
        usable = [name is not None and _is_usable(name) for name in names]
        full = [file.root.prefix + (name or "") for name in names]
        split = np.full(len(names), number_of(self.split_of(file)))
        if self.named is not None:
            split = self.named.numbers_of(file.root.prefix, [name or "" for name in names])
        table = {
            "source": np.zeros(len(names)),
            "split": np.where(usable, split, UNUSABLE),
            "share": np.array([splits.order(name, self.config.seed + 1) for name in full], np.uint64),
            "uri": [file.uri] * len(names),
            "group": np.repeat(np.arange(len(file.group_rows)), file.group_rows),
            "row": np.arange(len(names)),
            "id": [name if good else None for name, good in zip(full, usable, strict=True)],
        }
        arrays = [pa.array(table[field.name]).cast(field.type) for field in _SCHEMA]
        write_table(file.table, pa.table(arrays, _SCHEMA))


def _has_unique_names(columns: Columns, files: Sequence[ListedFile]) -> bool:
    """True if the rows of a source keep their names: they are ids, or paths whose stems are unique."""
    if columns.id is not None or not files:
        return True
    if not all(file.has_names for file in files):
        return False
    return not repeated(partial(_hashes, files), sum(file.num_rows for file in files))


def _hashes(files: Sequence[ListedFile]) -> Iterator[Hashes]:
    """Yields the hashes of the ids of usable rows, by file."""
    for file in files:
        table = read_table(file.table, ["split", "share"])
        yield table["share"].to_numpy()[table["split"].to_numpy() != UNUSABLE]


def _is_usable(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME_LENGTH and not is_bad(PurePosixPath(name))


def _prefixes(root: str, files: Sequence[ListedFile]) -> list[str]:
    """A name for each file: its stem, or if stems are not unique its path below the source, without the suffix."""
    stems = [PurePosixPath(file.uri).stem for file in files]
    if len(set(stems)) == len(stems):
        return stems
    return [file.uri.removeprefix(root).lstrip("/")[: -len(SUFFIX)] for file in files]


def _item(source: int, uri: str, group: int, row: int, name: str | None) -> Item:
    return Item(uri, group, row, name or "")


def _problem_of(item: Item, reason: str) -> SampleProblem:
    details = {
        "no_split": f"no split names id {item.id}",
        "duplicate_id": f"several rows have id {item.id}",
        "bad_name": f"the row has no id of at most {MAX_NAME_LENGTH} printable characters without `..`",
    }
    return SampleProblem(source=item.source, reason=reason, detail=details[reason])


def split_of_file(root: str, uri: str) -> Split | None:
    """The split that a file's name or folder begins with, as in `train-00000-of-00005.parquet`; the name decides."""
    below = uri.removeprefix(root).lstrip("/") or PurePosixPath(uri).name
    for part in reversed(PurePosixPath(below).parts):
        if found := _SPLIT.match(part.lower()):
            return splits.SPLIT_NAMES[found[1]]
    return None


class Contents(NamedTuple):
    """Samples with the content of their images and labels by URI, and rows that cannot be read."""

    samples: list[RawSample]
    files: dict[str, bytes | UserError]
    rejected: list[SampleProblem]


class RowReader:
    """Reads rows in the order of the source. A row group is continued at the place where the last call stopped."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._place: tuple[str, int] | None = None
        self._next = 0
        self._rows: Iterator[tuple[int, list[Any]]] = iter(())

    def read(self, items: Sequence[Item]) -> Contents:
        """Reads the images and labels of the rows."""
        found = Contents([], {}, [])
        for item in items:
            try:
                image, *label = self._row(item)
                if label == [None]:
                    raise BadSampleError("image_without_label", "the row has no label")
            except BadSampleError as error:
                found.rejected.append(SampleProblem(source=item.source, reason=error.reason, detail=str(error)))
                continue
            sample = RawSample(item.id, item.source, tuple((LABEL, f"{item.source}/{LABEL}") for _ in label))
            found.samples.append(sample)
            found.files[sample.image] = image or b""
            found.files.update({uri: content for (_, uri), content in zip(sample.label, label, strict=True)})
        return found

    def _row(self, item: Item) -> list[Any]:
        """The values of a row. Raises BadSampleError if its row group cannot be read that far."""
        if self._place != (item.uri, item.group) or item.row < self._next:
            self._place = (item.uri, item.group)
            self._rows = read_group(item.uri, item.group, self.columns)
        for number, values in self._rows:
            self._next = number + 1
            if number == item.row:
                return values
        raise BadSampleError("unreadable", f"row group {item.group} is damaged before or at this row")
