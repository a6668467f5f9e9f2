"""Lists the samples of raw sources: names go to buckets, each of which is joined by itself."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines import storage
from pipelines.config.commands import IngestConfig
from pipelines.data.packing import PROBLEM_SCHEMA, SampleProblem, printable
from pipelines.errors import UserError
from pipelines.ingest import raw_files, splits
from pipelines.ingest.formats import FORMATS
from pipelines.ingest.kinds import Counted, Kinds
from pipelines.ingest.names import Name, Names, Order, SourceFiles, read_bucket, write_names
from pipelines.ingest.raw_files import RawSample
from pipelines.ingest.samples import UNNAMED, Samples, find_samples, number_of, sample_schema
from pipelines.ingest.split_file import SplitFile
from pipelines.ingest.tables import read_table, write_table

logger = logging.getLogger(__name__)
_SAMPLES = sample_schema(
    pa.field("id", pa.string()),
    pa.field("image", pa.binary()),
    pa.field("parts", pa.list_(pa.string())),
    pa.field("files", pa.list_(pa.binary())),
)
_PROBLEMS = PROBLEM_SCHEMA.append(pa.field("folder", pa.string()))
"""`folder` is that of a file that is a problem if the folder holds images and labels; null for all others."""
MapBuckets = Callable[[Callable[[int], dict[str, Any]], Sequence[int]], Iterable[dict[str, Any]]]
"""Applies a function to the numbers of buckets, here or in tasks. The results are in any order."""


class Listing(NamedTuple):
    """The samples of the sources, and what no sample has. Nothing in it grows with the number of files.

    Rejected files are those without a partner, with a duplicate id, with a bad name, or without a split.
    """

    samples: Samples
    num_rejected: int
    problems: Callable[[], Iterator[SampleProblem]]
    """Reads the rejected files."""
    ignored: Kinds


class Joined(NamedTuple):
    """A report about a bucket to the driver, as JSON holds it."""

    bucket: int
    samples: str
    problems: str
    sources: list[dict[str, Any]]
    """The fields of `_OfSource` without `rows` and `problems`."""


class _OfSource(NamedTuple):
    """The files of one source in a bucket."""

    rows: list[tuple[Any, ...]]
    problems: list[tuple[str, str, str, str | None]]
    num_samples: int
    num_named: int
    """Number of samples whose split is named."""
    num_rejected: int
    first_problem: str
    ignored: Counted
    unclear: dict[str, Counted]
    """Files that are problems if their folder holds images and labels, by folder."""
    mixed_folders: list[str]


def list_source(config: IngestConfig, folder: str, map_buckets: MapBuckets = map) -> Listing:
    """Lists all samples of the sources, in an order that only ids and seed decide, with tables below `folder`.

    If there are several sources, ids begin with the name of theirs. `map_buckets` is used if there are several buckets.
    Raises UserError if a source holds no sample of the format; the message names the expected and the found files.
    """
    names = write_names(config, folder)

    def join(bucket: int) -> dict[str, Any]:
        return join_bucket(config, names, folder, bucket)._asdict()

    each = map if names.num_buckets == 1 else map_buckets
    return _combine(config, names, sorted(Joined(**found) for found in each(join, range(names.num_buckets))))


def join_bucket(config: IngestConfig, names: Names, folder: str, bucket: int) -> Joined:
    """Joins the files of a bucket to samples and writes these, and the problems, in an order that does not vary."""
    inside = read_bucket(names, bucket)
    found = [_join_source(config, number, names.sources[number], inside[number]) for number in range(len(inside))]
    uris = [storage.join(folder, f"{kind}-{bucket:05d}.parquet") for kind in ("samples", "problems")]
    rows = sorted((row for of_source in found for row in of_source.rows), key=lambda row: row[0])
    problems = sorted((row for of_source in found for row in of_source.problems), key=lambda row: row[:3])
    write_table(uris[0], _table([row[1:] for row in rows], _SAMPLES))
    write_table(uris[1], _table(problems, _PROBLEMS))
    told = [of_source._asdict() for of_source in found]
    for fields in told:
        del fields["rows"], fields["problems"]
    return Joined(bucket, uris[0], uris[1], told)


def _join_source(config: IngestConfig, number: int, source: SourceFiles, names: Sequence[Name]) -> _OfSource:
    """Joins the files of one source. A row begins with its place in the order of packing."""
    root, order = config.source[number], Order(config, source)
    found = raw_files.group_files(config, root, names, source.lists)
    named = _named_splits(config, root, source.prefix, [sample.id for sample in found.samples])
    rows = []
    for sample, split in zip(found.samples, named, strict=True):
        full = source.prefix + sample.id
        place = (order.of_id(sample.id), splits.rank(full, config.seed))
        share = splits.order(sample.id, config.seed + 1)
        paths = [_below(root, file) for file in (sample.image, *(file for _, file in sample.label))]
        parts = [part for part, _ in sample.label]
        rows.append((place, number, split, share, full, paths[0], parts, paths[1:]))
    unclear: dict[str, Kinds] = {}
    for name, problem in found.unclear:
        unclear.setdefault(f"{number}:{name}", Kinds()).add(problem["source"])
    return _OfSource(
        rows=rows,
        problems=[(*_shown(problem), None) for problem in found.rejected]
        + [(*_shown(problem), f"{number}:{name}") for name, problem in found.unclear],
        num_samples=len(rows),
        num_named=sum(split != UNNAMED for split in named),
        num_rejected=len(found.rejected),
        first_problem="{reason}, {detail}".format(**found.rejected[0]) if found.rejected else "",
        ignored=Kinds(file for file in found.ignored if file != config.split_file).counted(),
        unclear={name: kinds.counted() for name, kinds in unclear.items()},
        mixed_folders=[f"{number}:{name}" for name in sorted(found.mixed_folders)],
    )


def _named_splits(config: IngestConfig, source: str, prefix: str, ids: Sequence[str]) -> list[int]:
    """The numbers of the splits that the split file, or else names or lists, give to ids of a source; else UNNAMED."""
    if not ids:
        return []
    if config.split_file is not None:
        return list(map(int, SplitFile(config.split_file).numbers_of(prefix, ids)))
    found = FORMATS[config.format].splits(config, source, ids)
    return [number_of(found.get(name)) for name in ids]


def _combine(config: IngestConfig, names: Names, joined: Sequence[Joined]) -> Listing:
    """Decides what no bucket could know: which sources are divided by shares, and which folders are read as one."""
    by_source = [[_OfSource([], [], **each.sources[number]) for each in joined] for number in range(len(config.source))]
    by_shares = []
    for number, found in enumerate(by_source):
        if not any(each.num_samples for each in found):
            raise _no_samples(config, number, names, found)
        otherwise = FORMATS[config.format].shares_otherwise and config.split_file is None
        if otherwise and not any(each.num_named for each in found):
            by_shares.append(number)
    every = [each for found in by_source for each in found]
    mixed = {folder for each in every for folder in each.mixed_folders}
    ignored, num_rejected = names.ignored, sum(each.num_rejected for each in every)
    for each in every:
        ignored.merge(each.ignored)
        for name, files in each.unclear.items():
            if name in mixed:
                num_rejected += sum(int(count) for count, _ in files.values())
            else:
                ignored.merge(files)
    if shown := ignored.with_examples():
        logger.info("ignored files: %s", shown)
    tables = [each.samples for each in joined]
    samples = find_samples(tables, by_shares, config.splits, partial(_item, config.source), _problem_of)
    num_unnamed = sum(each.num_samples for each in every) - sum(samples.num_rows().values())

    def problems() -> Iterator[SampleProblem]:
        for each in joined:
            for *values, folder in zip(*(c.to_pylist() for c in read_table(each.problems).columns), strict=True):
                if folder is None or folder in mixed:
                    yield SampleProblem(source=values[0], reason=values[1], detail=values[2])
        yield from samples.problems()

    return Listing(samples, num_rejected + num_unnamed, problems, ignored)


def _no_samples(config: IngestConfig, number: int, names: Names, found: Sequence[_OfSource]) -> UserError:
    problem = next((each.first_problem for each in found if each.first_problem), "")
    first = f"; the first problem: {problem}" if problem else ""
    return UserError(
        f"{config.source[number]} holds no {config.format} samples: expected {FORMATS[config.format].expected}; "
        f"found {names.sources[number].in_words()}{first}"
    )


def _below(root: str, file: str) -> bytes:
    return file.removeprefix(root).lstrip("/").encode(errors="surrogateescape")


def _shown(problem: SampleProblem) -> tuple[str, str, str]:
    return printable(problem["source"]), problem["reason"], printable(problem["detail"])


def _table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [[]] * len(schema)
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema)


def _item(
    sources: Sequence[str], source: int, name: str, image: bytes, parts: Sequence[str], files: Sequence[bytes]
) -> RawSample:
    """The sample of a row of a table."""
    uris = [storage.join(sources[source], path.decode(errors="surrogateescape")) for path in (image, *files)]
    return RawSample(name, uris[0], tuple(zip(parts, uris[1:], strict=True)))


def _problem_of(sample: RawSample, reason: str) -> SampleProblem:
    return SampleProblem(source=sample.image, reason=reason, detail=f"no split names id {sample.id}")
