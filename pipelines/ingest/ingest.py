"""`ingest` packs raw faces into a data set and lists the samples that cannot be used in the quarantine table."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np

from dmlcsr.taxonomy import TAXONOMIES
from pipelines import storage
from pipelines.config.base import Split
from pipelines.config.commands import IngestConfig
from pipelines.data import dataset, packing
from pipelines.data.packing import PackedRows, SampleProblem
from pipelines.errors import UserError
from pipelines.ingest import parquet_source, raw_files, rows
from pipelines.ingest.formats import FORMATS
from pipelines.ingest.label_rules import LabelReader, read_rules
from pipelines.ingest.raw_files import RawSample
from pipelines.ingest.set_checks import WHOLE_SET, SetChecks
from pipelines.run import claims
from pipelines.run.preflight import Needs
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
    manifest = dataset.read_manifest(config.out)
    found = packing.read_problems(config.out, packing.REMARKS)
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
    """A listed source: what `packing.pack` needs to pack it."""

    items: Mapping[Split, Sequence[Any]]
    rejected: Sequence[SampleProblem]
    make_rows: packing.MakeRows
    rows_per_group: int
    rules: LabelReader | None
    """None if the faces have no labels."""
    ignored: Mapping[str, int]
    """Number of files that no sample has, by suffix."""


def open_source(config: IngestConfig) -> Source:
    """Lists the source. Raises UserError if it is unusable, or if options contradict it or each other."""
    if config.format == "parquet":
        return _open_parquet(config)
    if config.columns is not None:
        raise UserError(f"--columns: --format {config.format} has no columns; omit it")
    rules = read_rules(config, bool(FORMATS[config.format].parts))
    listing = raw_files.list_source(config)

    def make_rows(items: Sequence[Any]) -> PackedRows:
        return rows.pack_samples([RawSample(*item) for item in items], rules)

    return Source(listing.samples, listing.rejected, make_rows, rows_per_group(listing), rules, listing.ignored)


def _open_parquet(config: IngestConfig) -> Source:
    listing = parquet_source.list_rows(config)
    rules = read_rules(config, listing.columns.label is not None)
    reader = parquet_source.RowReader(listing.columns)

    def make_rows(items: Sequence[Any]) -> PackedRows:
        found = reader.read([parquet_source.Item(*item) for item in items])
        packed = rows.pack_contents(found.samples, rules, found.files)
        packed.rejected.extend(found.rejected)
        return packed

    return Source(
        listing.samples, listing.rejected, make_rows, _rows_of_size(listing.mean_bytes), rules, listing.ignored
    )


def build(config: IngestConfig) -> None:
    """Lists the source, claims the output and packs the samples. An unusable source leaves the output unclaimed."""
    source = open_source(config)
    rules = source.rules
    logger.info("found %d samples in %s", sum(map(len, source.items.values())), ", ".join(config.source))
    lineage = {"command": "ingest"} | config.model_dump(exclude={"out"})
    with claims.claim_output("ingest", config, config.out, file_digests(config)):
        if not dataset.is_complete(config.out):
            with ray_session(Needs(cpus=1), config.source):
                packing.pack(
                    config.out,
                    source.items,
                    source.make_rows,
                    rules and rules.target,
                    lineage,
                    source.rejected,
                    source.rows_per_group,
                    SetChecks(rules and rules.taxonomy, config.mapping),
                    source.ignored,
                )


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
_GROUP_BYTES = 8 << 20
"""Target size of the images in a row group, in bytes."""


def rows_per_group(listing: raw_files.Listing) -> int:
    """The number of rows in a row group: about 8 MiB of images, estimated from the first samples in shuffled order."""
    first = [sample.image for samples in listing.samples.values() for sample in samples[:_SAMPLED]]
    sizes = [len(data) for data in storage.read_many(first) if isinstance(data, bytes)]
    return _rows_of_size(sum(sizes) / len(sizes) if sizes else 0)


def _rows_of_size(mean_bytes: float) -> int:
    return int(np.clip(_GROUP_BYTES // max(mean_bytes, 1), 1, dataset.ROWS_PER_GROUP))
