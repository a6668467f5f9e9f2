"""`ingest` packs raw faces into a data set and lists the samples that cannot be used in the quarantine table."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypedDict

import cv2
import numpy as np
import numpy.typing as npt

from dmlcsr.quality import looks_mirrored
from dmlcsr.relations import PartPositions, agreements, mapping_lut
from dmlcsr.taxonomy import IGNORE, TAXONOMIES, Taxonomy
from dmlcsr.taxonomy import Mapping as SourceMapping
from pipelines import storage
from pipelines.config.base import Split
from pipelines.config.commands import IngestConfig
from pipelines.config.taxonomies import read_colors, read_remap, read_taxonomy
from pipelines.data import dataset, packing
from pipelines.data.dataset import Row
from pipelines.data.images import decode_label, encode_png
from pipelines.data.packing import PackedRows, SampleProblem
from pipelines.errors import UserError
from pipelines.ingest import checks, label_files, parquet_source, raw_files
from pipelines.ingest.checks import BadSampleError
from pipelines.ingest.formats import FORMATS
from pipelines.ingest.label_files import LABEL, Label
from pipelines.ingest.raw_files import RawSample
from pipelines.ingest.set_checks import SetChecks
from pipelines.run import claims
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session

logger = logging.getLogger(__name__)


Lut = npt.NDArray[np.uint8]
"""(256,) lookup table of ids."""


class LabelReader(NamedTuple):
    """Rules for labels: `compose` makes ids from files, in the order of the source.

    They become ids of `taxonomy` by `source_lut`, and after the checks those of `target` by `lut`. None as a table
    leaves the ids as they are.
    """

    taxonomy: Taxonomy
    compose: Callable[[Mapping[str, bytes]], Label]
    source_lut: Lut | None
    target: Taxonomy
    lut: Lut | None


class IngestResult(TypedDict):
    """The result of `ingest`."""

    out: str
    num_rows: dict[Split, int]
    num_quarantined: int
    reasons: dict[str, int]
    """Number of rejected samples by reason."""
    remarks: dict[str, int]
    """Number of remarks about accepted rows, or about the whole set, by reason."""


def run(config: IngestConfig) -> IngestResult:
    """Packs the source into `config.out`, or returns the result of an earlier run with this configuration."""
    config = claims.find_claim("ingest", config, config.out) or config
    if not dataset.is_complete(config.out):
        build(config)
    manifest = dataset.read_manifest(config.out)
    return {
        "out": config.out,
        "num_rows": manifest.num_rows(),
        "num_quarantined": manifest.num_quarantined,
        "reasons": dict(manifest.reasons),
        "remarks": dict(manifest.remarks),
    }


class Source(NamedTuple):
    """A listed source: what `packing.pack` needs to pack it."""

    items: Mapping[Split, Sequence[Any]]
    rejected: Sequence[SampleProblem]
    make_rows: packing.MakeRows
    rows_per_group: int
    rules: LabelReader | None
    """None if the faces have no labels."""


def open_source(config: IngestConfig) -> Source:
    """Lists the source. Raises UserError if it is unusable, or if options contradict it or each other."""
    if config.format == "parquet":
        return _open_parquet(config)
    if config.columns is not None:
        raise UserError(f"--columns: --format {config.format} has no columns; omit it")
    rules = label_rules(config, bool(FORMATS[config.format].parts))
    listing = raw_files.list_source(config)

    def make_rows(items: Sequence[Any]) -> PackedRows:
        return pack_samples([RawSample(*item) for item in items], rules)

    return Source(listing.samples, listing.rejected, make_rows, rows_per_group(listing), rules)


def _open_parquet(config: IngestConfig) -> Source:
    listing = parquet_source.list_rows(config)
    rules = label_rules(config, listing.columns.label is not None)
    reader = parquet_source.RowReader(listing.columns)

    def make_rows(items: Sequence[Any]) -> PackedRows:
        found = reader.read([parquet_source.Item(*item) for item in items])
        packed = pack_contents(found.samples, rules, found.files)
        packed.rejected.extend(found.rejected)
        return packed

    return Source(listing.samples, listing.rejected, make_rows, _rows_of_size(listing.mean_bytes), rules)


def build(config: IngestConfig) -> None:
    """Lists the source, claims the output and packs the samples. An unusable source leaves the output unclaimed."""
    source = open_source(config)
    rules = source.rules
    logger.info("found %d samples in %s", sum(map(len, source.items.values())), config.source)
    lineage = {"command": "ingest"} | config.model_dump(exclude={"out"})
    with claims.claim_output("ingest", config, config.out, file_digests(config)):
        if not dataset.is_complete(config.out):
            with ray_session(Needs(cpus=1)):
                packing.pack(
                    config.out,
                    source.items,
                    source.make_rows,
                    rules and rules.target,
                    lineage,
                    source.rejected,
                    source.rows_per_group,
                    rules and SetChecks(rules.taxonomy, config.mapping),
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
    return "\n".join(lines)


def file_digests(config: IngestConfig) -> dict[str, str]:
    """The sha256 of each file that decides rows and is no sample, by option; an interrupted command needs the same."""
    names = ("taxonomy", "colors", "remap_to", "split_file")
    given = {name: value for name in names if (value := getattr(config, name)) is not None and value not in TAXONOMIES}
    return {name: hashlib.sha256(storage.read_bytes(uri)).hexdigest() for name, uri in given.items()}


def label_rules(config: IngestConfig, has_labels: bool) -> LabelReader | None:
    """The rules for labels; None if the faces have no labels. Then options about labels raise UserError."""
    if has_labels:
        return label_reader(config)
    for name in ("taxonomy", "mapping", "colors", "remap_to"):
        if getattr(config, name) is not None:
            other = ", or name their column with --columns label=NAME" if config.format == "parquet" else ""
            raise UserError(f"--{name.replace('_', '-')}: the faces of {config.source} have no labels; omit it{other}")
    return None


def label_reader(config: IngestConfig) -> LabelReader:
    """Makes the rules for labels of the configured format.

    They are sent to the tasks, which do not read FORMATS. Raises UserError if options contradict each other, or if
    a file that they name cannot be read.
    """
    source = _source_taxonomy(config)
    mapping = _source_mapping(config, source)
    compose = FORMATS[config.format].compose
    if mapping is not None and mapping.colors:
        if FORMATS[config.format].parts != (LABEL,):
            raise UserError(f"--format {config.format} has no label files of colors; omit --mapping and --colors")
        compose = partial(_of_colors, mapping.colors)
    source_lut = mapping_lut(mapping) if mapping is not None and mapping.ids else None
    target, lut = read_remap(config.remap_to, source) if config.remap_to else (source, None)
    return LabelReader(source, partial(compose, config), source_lut, target, lut)


def _of_colors(colors: label_files.Colors, config: IngestConfig, files: Mapping[str, bytes]) -> Label:
    return label_files.single(files, colors)


def _source_taxonomy(config: IngestConfig) -> Taxonomy:
    own = FORMATS[config.format].taxonomy
    if own is None and config.taxonomy is None:
        raise UserError(f"--taxonomy is required for --format {config.format}: it says what the label ids mean")
    if own is None:
        return read_taxonomy(str(config.taxonomy))
    if config.taxonomy is not None and (given := read_taxonomy(config.taxonomy)).classes != own.classes:
        raise UserError(
            f"--taxonomy {config.taxonomy}: --format {config.format} has the classes of {own.name}, not those of "
            f"{given.name}; omit it"
        )
    return own


def _source_mapping(config: IngestConfig, taxonomy: Taxonomy) -> SourceMapping | None:
    if config.colors is not None and config.mapping is not None:
        raise UserError("--colors and --mapping exclude each other: both say what the source's values mean")
    if config.colors is not None:
        return read_colors(config.colors, taxonomy)
    if config.mapping is None:
        return None
    try:
        mapping = taxonomy.mapping(config.mapping)
    except ValueError as error:
        raise UserError(f"--mapping: {error}") from error
    if mapping.classes:
        raise UserError(f"--mapping {config.mapping} translates classes of another taxonomy; use --remap-to for it")
    return mapping


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


def pack_samples(samples: Sequence[RawSample], rules: LabelReader | None) -> PackedRows:
    """Reads all files of a few samples at once, then checks and packs each sample."""
    uris = [uri for sample in samples for uri in (sample.image, *(part for _, part in sample.label))]
    return pack_contents(samples, rules, dict(zip(uris, storage.read_many(uris), strict=True)))


def pack_contents(
    samples: Sequence[RawSample], rules: LabelReader | None, files: Mapping[str, bytes | UserError]
) -> PackedRows:
    """Checks and packs samples. `files` holds the content of each of their URIs."""
    cv2.setNumThreads(1)
    facts: list[Mapping[str, Any]] = []
    batch = PackedRows([], [], [], facts)
    for sample in samples:
        try:
            row, found = make_row(sample, rules, files)
        except BadSampleError as error:
            batch.rejected.append(SampleProblem(source=sample.image, reason=error.reason, detail=str(error)))
            continue
        batch.rows.append(row)
        if found is not None:
            batch.remarks.extend(found.remarks)
            facts.append(found.facts)
    return batch


class Observed(NamedTuple):
    """Observations about a packed row: remarks about it, and facts for the checks of the whole set."""

    remarks: list[SampleProblem]
    facts: dict[str, Any]


def make_row(
    sample: RawSample, rules: LabelReader | None, files: Mapping[str, bytes | UserError]
) -> tuple[Row, Observed | None]:
    """Checks and packs one sample; returns its row, and what was observed. Both lack a label if `rules` is None.

    Image bytes are not changed. A label file is packed unchanged if it is a plain PNG of the final ids, and else
    encoded again. Raises BadSampleError, with the reason, if the sample cannot be used.
    """
    image = _content(files, sample.image)
    size = checks.check_image(image)
    meta = json.dumps({"source": sample.image})
    row = Row(id=sample.id, image=image, label=None, height=size[0], width=size[1], meta=meta)
    if rules is None:
        return row, None
    parts = {role: _content(files, uri) for role, uri in sample.label}
    in_source = rules.compose(parts)
    label = _translated(in_source, rules)
    checks.check_label(label, size, rules.taxonomy)
    observed = Observed(_remarks(sample.id, label, rules.taxonomy), _facts(in_source, rules.taxonomy))
    final = label if rules.lut is None else rules.lut[label]
    encoded = parts.get(LABEL)
    if encoded is None or not _holds(encoded, final):
        encoded = encode_png(final)
    row["label"] = encoded
    return row, observed


def _translated(label: Label, rules: LabelReader) -> Label:
    """The label in ids of the taxonomy. Raises BadSampleError for an id that the mapping does not list."""
    if rules.source_lut is None:
        return label
    translated = rules.source_lut[label]
    wrong = np.unique(label[(translated == IGNORE) & (label != IGNORE)])
    if len(wrong):
        raise BadSampleError("unknown_id", f"ids {wrong.tolist()} are not in the mapping")
    return translated


def _remarks(name: str, label: Label, taxonomy: Taxonomy) -> list[SampleProblem]:
    if not looks_mirrored(label, taxonomy):
        return []
    detail = "more parts lie on the other side of their partner than the taxonomy says"
    return [SampleProblem(source=name, reason=packing.MIRRORED, detail=detail)]


def _facts(label: Label, taxonomy: Taxonomy) -> dict[str, Any]:
    return {"agreements": agreements(PartPositions.of(label), taxonomy)}


def _holds(encoded: bytes, label: Label) -> bool:
    """True if a label file can be packed unchanged: it is a plain PNG that training decodes to `label`.

    Raises BadSampleError if training could not decode it.
    """
    if not checks.is_plain_png(encoded):
        return False
    try:
        return np.array_equal(decode_label(encoded), label)
    except ValueError as error:
        raise BadSampleError("undecodable", "OpenCV cannot decode this label; its end may be missing") from error


def _content(files: Mapping[str, bytes | UserError], uri: str) -> bytes:
    data = files[uri]
    if isinstance(data, UserError):
        raise BadSampleError("unreadable", str(data))
    if not data:
        raise BadSampleError("empty_file", f"{uri} has no content")
    return data
