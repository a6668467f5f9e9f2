"""Lists and reads the rows of an existing Parquet data set, such as one in the layout of Hugging Face.

Listing reads the footers and, if rows have names, the column of names; tasks read images and labels.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from dmlcsr.image_files import BadSampleError
from pipelines import storage
from pipelines.config.base import SPLITS, Split
from pipelines.config.commands import IngestConfig
from pipelines.data.packing import SampleProblem
from pipelines.errors import UserError
from pipelines.ingest import raw_files, splits
from pipelines.ingest.kinds import by_kind
from pipelines.ingest.label_files import LABEL
from pipelines.ingest.parquet_columns import Columns, find_columns
from pipelines.ingest.parquet_files import MAX_NAME_LENGTH, FileRows, inspect, opened, read_group, reading
from pipelines.ingest.raw_files import RawSample
from pipelines.ingest.split_lists import is_bad

SUFFIX = ".parquet"
_NUM_THREADS = 16
"""Number of files that are inspected at once."""
_SPLIT = re.compile(rf"({'|'.join(sorted(splits.SPLIT_NAMES, key=len, reverse=True))})(?![a-z])")


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
    """The rows of the sources by split, in their order, rejected files and rows, and the mean size of an image.

    `ignored` counts all other files by suffix.
    """

    samples: Mapping[Split, list[Item]]
    rejected: list[SampleProblem]
    columns: Columns
    mean_bytes: float
    ignored: Mapping[str, int]


class Root(NamedTuple):
    """A source, and the start of the ids of its rows."""

    uri: str
    prefix: str


def list_rows(config: IngestConfig) -> ParquetListing:
    """Lists all rows of the sources by split, in the order of the sources.

    If there are several sources, ids begin with the name of theirs. Raises UserError if they hold no rows, if the
    columns are not clear, or if a row group is too large.
    """
    roots = [Root(*pair) for pair in zip(config.source, raw_files.id_prefixes(config.source), strict=True)]
    root_of = {uri: root for root in roots for uri in storage.list_files(root.uri)}
    files = [uri for uri in root_of if uri.lower().endswith(SUFFIX)]
    ignored = by_kind(uri for uri in root_of if not uri.lower().endswith(SUFFIX) and uri != config.split_file)
    columns, rejected = _columns(config, files)
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        inspected = list(threads.map(partial(inspect, columns=columns), files[len(rejected) :]))
    found = [file for file in inspected if isinstance(file, FileRows)]
    rejected += [problem for problem in inspected if not isinstance(problem, FileRows)]
    listed = [
        item for root in roots for item in _items(root, [file for file in found if root_of[file.uri] == root], columns)
    ]
    items, bad = _unique(listed)
    by_split, without = _split(config, root_of, items)
    num_rows = sum(sum(file.group_rows) for file in found)
    mean_bytes = sum(file.image_bytes for file in found) / max(num_rows, 1)
    counts = {kind: len(uris) for kind, uris in ignored.items()}
    return ParquetListing(by_split, rejected + bad + without, columns, mean_bytes, counts)


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


def _items(root: Root, files: Sequence[FileRows], columns: Columns) -> list[Item | SampleProblem]:
    """All rows with their ids, in order; in the place of a row without a usable id its problem."""
    names = [None if file.names is None else list(file.names) for file in files]
    if columns.id is None:
        stems = [name and PurePosixPath(name).stem for found in names for name in found or [None]]
        is_unique = all(stems) and len(set(stems)) == len(stems)
        names = [[PurePosixPath(name or "").stem for name in found or []] if is_unique else None for found in names]
    prefixes = _prefixes(root.uri, files)
    items: list[Item | SampleProblem] = []
    for file, found, prefix in zip(files, names, prefixes, strict=True):
        groups = np.repeat(np.arange(len(file.group_rows)), file.group_rows).tolist()
        for row, group in enumerate(groups):
            name = f"{prefix}-{row}" if found is None else found[row]
            if name is None or not _is_usable(name):
                detail = f"the row has no id of at most {MAX_NAME_LENGTH} printable characters without `..`"
                items.append(SampleProblem(source=f"{file.uri}#{row}", reason="bad_name", detail=detail))
            else:
                items.append(Item(file.uri, group, row, root.prefix + name))
    return items


def _is_usable(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME_LENGTH and not is_bad(PurePosixPath(name))


def _prefixes(root: str, files: Sequence[FileRows]) -> list[str]:
    """A name for each file: its stem, or if stems are not unique its path below the source, without the suffix."""
    stems = [PurePosixPath(file.uri).stem for file in files]
    if len(set(stems)) == len(stems):
        return stems
    return [file.uri.removeprefix(root).lstrip("/")[: -len(SUFFIX)] for file in files]


def _unique(found: Sequence[Item | SampleProblem]) -> tuple[list[Item], list[SampleProblem]]:
    """The rows whose id no other row has, and the problems of the others."""
    counts = Counter(item.id for item in found if isinstance(item, Item))
    items, rejected = [], []
    for item in found:
        if not isinstance(item, Item):
            rejected.append(item)
        elif counts[item.id] == 1:
            items.append(item)
        else:
            detail = f"{counts[item.id]} rows have id {item.id}"
            rejected.append(SampleProblem(source=item.source, reason="duplicate_id", detail=detail))
    return items, rejected


def _split(
    config: IngestConfig, root_of: Mapping[str, Root], items: Sequence[Item]
) -> tuple[dict[Split, list[Item]], list[SampleProblem]]:
    """The rows by split, and the rows that have none: by `--split-file`, by the names of the files, or by shares.

    A split file may name ids with or without the prefix of the source.
    """
    named = {uri: split_of_file(root_of[uri].uri, uri) for uri in {item.uri for item in items}}
    split_of: Mapping[str, Split | None]
    if config.split_file is not None:
        given = splits.from_file(config.split_file)
        bare = {item.id: item.id.removeprefix(root_of[item.uri].prefix) for item in items}
        split_of = {name: given.get(name, given.get(short)) for name, short in bare.items()}
    elif any(named.values()):
        split_of = {item.id: named[item.uri] for item in items}
    else:
        split_of = splits.by_shares([item.id for item in items], config.splits, config.seed)
    by_split: dict[Split, list[Item]] = {split: [] for split in SPLITS}
    rejected = []
    for item in items:
        if (split := split_of.get(item.id)) is not None:
            by_split[split].append(item)
        else:
            detail = f"no split names id {item.id}"
            rejected.append(SampleProblem(source=item.source, reason="no_split", detail=detail))
    return by_split, rejected


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
