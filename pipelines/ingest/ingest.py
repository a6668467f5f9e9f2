"""`ingest` packs raw faces into a data set and lists the samples that cannot be used in the quarantine table."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, TypedDict

import ray.data

from dmlcsr.taxonomy import TAXONOMIES
from pipelines import storage
from pipelines.config.base import SPLITS, Split
from pipelines.config.commands import IngestConfig
from pipelines.data import dataset, packing
from pipelines.data.packing import PackedRows
from pipelines.errors import UserError
from pipelines.ingest import parquet_source, rows, tables
from pipelines.ingest.formats import FORMATS
from pipelines.ingest.label_rules import LabelReader, read_rules
from pipelines.ingest.listing import Listing, MapBuckets, list_source
from pipelines.ingest.pack import MakeRows, pack
from pipelines.ingest.raw_files import RawSample
from pipelines.ingest.samples import Samples
from pipelines.ingest.set_checks import WHOLE_SET, SetChecks
from pipelines.run import claims
from pipelines.run.preflight import Needs
from pipelines.run.progress import log_count
from pipelines.run.session import ray_session

logger = logging.getLogger(__name__)


class IngestResult(TypedDict):
    """The result of `ingest`."""

    out: str
    num_rows: dict[Split, int]
    num_quarantined: int
    reasons: dict[str, int]
    """Number of rejected samples by reason."""
    remarks: dict[str, int]
    """Number of remarks about accepted rows, or about the whole set, by reason."""
    set_remarks: list[str]
    """The remarks about the whole set, in sentences."""
    ignored: dict[str, int]
    """Number of files in the sources that no sample has, by suffix."""


def run(config: IngestConfig) -> IngestResult:
    """Packs the source into `config.out`, or returns the result of an earlier run with this configuration."""
    config = claims.find_claim("ingest", config, config.out) or config
    if not dataset.is_complete(config.out):
        build(config)
    tables.delete_all(config.out)
    manifest = dataset.read_manifest(config.out)
    found = packing.iter_problems(config.out, packing.REMARKS) if manifest.remarks else iter(())
    return {
        "out": config.out,
        "num_rows": manifest.num_rows(),
        "num_quarantined": manifest.num_quarantined,
        "reasons": dict(manifest.reasons),
        "remarks": dict(manifest.remarks),
        "set_remarks": [remark["detail"] for remark in found if remark["source"] == WHOLE_SET],
        "ignored": dict(manifest.ignored),
    }


class Source(NamedTuple):
    """A listed source: what `pack` needs to pack it."""

    listing: Listing
    make_rows: MakeRows
    mean_bytes: float
    """Mean size of an image."""
    rules: LabelReader | None
    """None if the faces have no labels."""


def open_source(config: IngestConfig, folder: str, map_buckets: MapBuckets = map) -> Source:
    """Lists the source, with tables below `folder`.

    Raises UserError if the source is unusable, or if options contradict it or each other.
    """
    if config.format == "parquet":
        return _open_parquet(config, folder)
    if config.columns is not None:
        raise UserError(f"--columns: --format {config.format} has no columns; omit it")
    rules = read_rules(config, bool(FORMATS[config.format].parts))
    listing = list_source(config, folder, map_buckets)

    def make_rows(items: Sequence[Any]) -> PackedRows:
        return rows.pack_samples([RawSample(*item) for item in items], rules)

    return Source(listing, make_rows, mean_bytes(listing.samples), rules)


def _open_parquet(config: IngestConfig, folder: str) -> Source:
    found = parquet_source.list_rows(config, folder)
    rules = read_rules(config, found.columns.label is not None)
    reader = parquet_source.RowReader(found.columns)

    def make_rows(items: Sequence[Any]) -> PackedRows:
        contents = reader.read([parquet_source.Item(*item) for item in items])
        packed = rows.pack_contents(contents.samples, rules, contents.files)
        packed.rejected.extend(contents.rejected)
        return packed

    return Source(found.listing, make_rows, found.mean_bytes, rules)


def build(config: IngestConfig) -> None:
    """Lists the source, claims the output and packs the samples. An unusable source leaves the output unclaimed."""
    with ExitStack() as stack:

        def map_buckets(join: Callable[[int], dict[str, Any]], buckets: Sequence[int]) -> Iterator[dict[str, Any]]:
            stack.enter_context(ray_session(Needs(cpus=1), config.source))
            yield from in_tasks(join, buckets)

        source = open_source(config, stack.enter_context(tables.working_folder(config.out)), map_buckets)
        num_samples = sum(source.listing.samples.num_rows().values())
        logger.info("found %d samples in %s", num_samples, ", ".join(config.source))
        stack.enter_context(claims.claim_output("ingest", config, config.out, file_digests(config)))
        if not dataset.is_complete(config.out):
            stack.enter_context(ray_session(Needs(cpus=1), config.source))
            rules = source.rules
            pack(
                config.out,
                source.listing.samples,
                source.make_rows,
                source.mean_bytes,
                rules and rules.target,
                {"command": "ingest"} | config.model_dump(exclude={"out"}),
                source.listing.problems,
                SetChecks(rules and rules.taxonomy, config.mapping),
                source.listing.ignored.counts(),
            )


def in_tasks(join: Callable[[int], dict[str, Any]], buckets: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Applies `join` to each bucket in a Ray Data task of its own."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    found = ray.data.from_items([{"bucket": bucket} for bucket in buckets], override_num_blocks=len(buckets))
    tasks = found.map(lambda row: {"answer": json.dumps(join(row["bucket"]))})
    for done, row in enumerate(tasks.iter_rows(), start=1):
        log_count(f"joined {done} of {len(buckets)} buckets of files", done, len(buckets))
        yield json.loads(row["answer"])


def summary(result: IngestResult) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in result["num_rows"].items())
    lines = [f"packed {counts} rows into {result['out']}"]
    if result["num_quarantined"]:
        lines.append(f"{result['num_quarantined']} rejected samples; see {result['out']}/{packing.QUARANTINE}:")
        lines += [f"  {count} {reason}" for reason, count in result["reasons"].items()]
    if result["remarks"]:
        lines.append(f"remarks about rows that stay in the data set; see {result['out']}/{packing.REMARKS}:")
        lines += [f"  {count} {reason}" for reason, count in result["remarks"].items()]
    lines += result["set_remarks"]
    if result["ignored"]:
        lines.append(f"ignored files: {', '.join(f'{count} {kind}' for kind, count in result['ignored'].items())}")
    return "\n".join(lines)


def file_digests(config: IngestConfig) -> dict[str, str]:
    """The sha256 of each file that decides rows and is no sample, by option; an interrupted command needs the same."""
    names = ("taxonomy", "colors", "remap_to", "split_file")
    given = {name: value for name in names if (value := getattr(config, name)) is not None and value not in TAXONOMIES}
    return {name: hashlib.sha256(storage.read_bytes(uri)).hexdigest() for name, uri in given.items()}


_SAMPLED = 32
"""Number of images per split that are read to estimate the mean size of an image."""


def mean_bytes(samples: Samples) -> float:
    """The mean size of an image, estimated from the first samples in shuffled order."""
    first = [sample.image for split in SPLITS for sample in samples.read(split, 0, _SAMPLED)]
    sizes = [len(data) for data in storage.read_many(first) if isinstance(data, bytes)]
    return sum(sizes) / len(sizes) if sizes else 0
