"""`ingest` packs raw faces into a data set and lists the samples that cannot be used in the quarantine table."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypedDict

import cv2
import numpy as np
import numpy.typing as npt

from dmlcsr.quality import looks_mirrored
from dmlcsr.taxonomy import Taxonomy, get_taxonomy, remap_lut
from pipelines import storage
from pipelines.config.base import Split
from pipelines.config.commands import IngestConfig
from pipelines.data import dataset, packing
from pipelines.data.dataset import Row
from pipelines.data.images import decode_label, encode_png
from pipelines.data.packing import PackedRows, SampleProblem
from pipelines.errors import UserError
from pipelines.ingest import checks, raw_files
from pipelines.ingest.checks import BadSampleError
from pipelines.ingest.formats import FORMATS
from pipelines.ingest.label_files import LABEL, Label
from pipelines.ingest.raw_files import RawSample
from pipelines.run import claims
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session

logger = logging.getLogger(__name__)


class LabelReader(NamedTuple):
    """Rules for labels: `compose` makes ids from files; the ids are checked against `taxonomy` and remapped by `lut`.

    None as `lut` leaves the ids as they are.
    """

    taxonomy: Taxonomy
    compose: Callable[[Mapping[str, bytes]], Label]
    lut: npt.NDArray[np.uint8] | None


class IngestResult(TypedDict):
    """The result of `ingest`."""

    out: str
    num_rows: dict[Split, int]
    num_quarantined: int
    reasons: dict[str, int]
    """Number of rejected samples by reason."""
    num_mirrored: int
    """Rows whose left and right ids look swapped."""


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
        "num_mirrored": manifest.num_mirrored,
    }


def build(config: IngestConfig) -> None:
    """Lists the source, claims the output and packs the samples. An unusable source leaves the output unclaimed."""
    rules, target = label_reader(config), _target_taxonomy(config)
    listing = raw_files.list_source(config)
    logger.info("found %d samples in %s", sum(map(len, listing.samples.values())), config.source)

    def make_rows(items: Sequence[Any]) -> PackedRows:
        return pack_samples([RawSample(*item) for item in items], rules)

    size = rows_per_group(listing)
    lineage = {"command": "ingest"} | config.model_dump(exclude={"out"})
    with claims.claim_output("ingest", config, config.out):
        if not dataset.is_complete(config.out):
            with ray_session(Needs(cpus=1)):
                packing.pack(config.out, listing.samples, make_rows, target, lineage, listing.rejected, size)


def summary(result: IngestResult) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in result["num_rows"].items())
    lines = [f"packed {counts} rows into {result['out']}"]
    if result["num_quarantined"]:
        lines.append(f"{result['num_quarantined']} rejected samples; see {result['out']}/{packing.QUARANTINE}:")
        lines += [f"  {count} {reason}" for reason, count in result["reasons"].items()]
    if result["num_mirrored"]:
        table = f"{result['out']}/{packing.REMARKS}"
        lines.append(f"{result['num_mirrored']} rows look mirrored, with left and right ids not swapped; see {table}")
    return "\n".join(lines)


def label_reader(config: IngestConfig) -> LabelReader:
    """Makes the rules for labels of the configured format. They are sent to the tasks, which do not read FORMATS."""
    source = _source_taxonomy(config)
    compose = partial(FORMATS[config.format].compose, config)
    return LabelReader(source, compose, _lut(source, _target_taxonomy(config)))


def _target_taxonomy(config: IngestConfig) -> Taxonomy:
    return get_taxonomy(config.remap_to) if config.remap_to else _source_taxonomy(config)


def _source_taxonomy(config: IngestConfig) -> Taxonomy:
    own = FORMATS[config.format].taxonomy
    if own is None and config.taxonomy is None:
        raise UserError(f"--taxonomy is required for --format {config.format}: it says what the label ids mean")
    if own is not None and config.taxonomy not in (None, own.name):
        raise UserError(f"--taxonomy {config.taxonomy}: --format {config.format} has the taxonomy {own.name}; omit it")
    return own or get_taxonomy(str(config.taxonomy))


def _lut(source: Taxonomy, target: Taxonomy) -> npt.NDArray[np.uint8] | None:
    if source == target:
        return None
    try:
        return remap_lut(source, target)
    except ValueError as error:
        raise UserError(f"--remap-to: {error}") from error


_SAMPLED = 32
"""Number of images per split that are read to estimate the mean size of an image."""
_GROUP_BYTES = 8 << 20
"""Target size of the images in a row group, in bytes."""


def rows_per_group(listing: raw_files.Listing) -> int:
    """The number of rows in a row group: about 8 MiB of images, estimated from the first samples in shuffled order."""
    first = [sample.image for samples in listing.samples.values() for sample in samples[:_SAMPLED]]
    sizes = [len(data) for data in storage.read_many(first) if isinstance(data, bytes)]
    mean = sum(sizes) / len(sizes) if sizes else 0
    return int(np.clip(_GROUP_BYTES // max(mean, 1), 1, dataset.ROWS_PER_GROUP))


def pack_samples(samples: Sequence[RawSample], rules: LabelReader) -> PackedRows:
    """Reads all files of a few samples at once, then checks and packs each sample."""
    cv2.setNumThreads(1)
    uris = [uri for sample in samples for uri in (sample.image, *(part for _, part in sample.label))]
    files = dict(zip(uris, storage.read_many(uris), strict=True))
    batch = PackedRows([], [], [])
    for sample in samples:
        try:
            row, mirrored = make_row(sample, rules, files)
        except BadSampleError as error:
            batch.rejected.append(SampleProblem(source=sample.image, reason=error.reason, detail=str(error)))
            continue
        batch.rows.append(row)
        if mirrored:
            detail = "more left parts lie right of their partner than left of it"
            batch.remarks.append(SampleProblem(source=sample.id, reason=packing.MIRRORED, detail=detail))
    return batch


def make_row(sample: RawSample, rules: LabelReader, files: dict[str, bytes | UserError]) -> tuple[Row, bool]:
    """Checks and packs one sample; returns its row, and True if its label looks mirrored.

    Image bytes are not changed. A label file is packed unchanged if it is a plain PNG of the final ids, and else
    encoded again. Raises BadSampleError, with the reason, if the sample cannot be used.
    """
    image = _content(files, sample.image)
    size = checks.check_image(image)
    parts = {role: _content(files, uri) for role, uri in sample.label}
    label = rules.compose(parts)
    checks.check_label(label, size, rules.taxonomy)
    mirrored = looks_mirrored(label, rules.taxonomy)
    encoded = parts.get(LABEL)
    if rules.lut is not None or encoded is None or not _holds(encoded, label):
        encoded = encode_png(label if rules.lut is None else rules.lut[label])
    meta = json.dumps({"source": sample.image})
    return Row(id=sample.id, image=image, label=encoded, height=size[0], width=size[1], meta=meta), mirrored


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


def _content(files: dict[str, bytes | UserError], uri: str) -> bytes:
    data = files[uri]
    if isinstance(data, UserError):
        raise BadSampleError("unreadable", str(data))
    if not data:
        raise BadSampleError("empty_file", f"{uri} has no content")
    return data
