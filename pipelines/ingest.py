"""`ingest`: raw faces become a packed data set; what cannot be used goes to the quarantine table."""

import io
import json
import logging
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from dmlcsr.taxonomy import FACE_SYNTHETICS, IGNORE, Taxonomy, get_taxonomy, remap_lut
from pipelines import dataset, packing, sources, storage
from pipelines.config import IngestConfig
from pipelines.dataset import Row
from pipelines.errors import UserError
from pipelines.images import encode_png
from pipelines.packing import Rejected
from pipelines.session import ray_session
from pipelines.sources import RawSample

logger = logging.getLogger(__name__)
MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: a small file can claim any size."""


class BadSampleError(ValueError):
    """A sample that cannot be used; `reason` is the key of the quarantine table."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def run(config: IngestConfig) -> dict[str, Any]:
    """Packs the source; `{"out", "num_rows", "num_quarantined", "reasons"}`."""
    source_taxonomy = _taxonomy(config)
    target = get_taxonomy(config.remap_to) if config.remap_to else source_taxonomy
    lut = _lut(source_taxonomy, target)
    lineage = {"command": "ingest"} | config.model_dump(exclude={"out"})
    if not dataset.is_finished(config.out, lineage):
        listing = sources.list_source(config)
        dataset.begin(config.out, lineage)
        logger.info("%d samples found in %s", len(listing.samples), config.source)
        items = {split: [s for s in listing.samples if s.split == split] for split in dataset.SPLITS}

        def make_rows(samples: Sequence[RawSample]) -> tuple[list[Row], list[Rejected]]:
            return _make_rows(samples, source_taxonomy, lut)

        with ray_session(num_cpus=1):
            packing.pack(config.out, items, make_rows, target, lineage, listing.rejected)
    manifest = dataset.read_manifest(config.out)
    return {
        "out": config.out,
        "num_rows": manifest.num_rows(),
        "num_quarantined": manifest.num_quarantined,
        "reasons": dict(manifest.reasons),
    }


def summary(result: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in result["num_rows"].items())
    reasons = "".join(f"\n  {count} {reason}" for reason, count in result["reasons"].items())
    bad = f"; {result['num_quarantined']} bad samples in quarantine:{reasons}" if result["num_quarantined"] else ""
    return f"packed {counts} rows into {result['out']}{bad}"


def _taxonomy(config: IngestConfig) -> Taxonomy:
    if config.format == "face_synthetics":
        if config.taxonomy not in (None, FACE_SYNTHETICS.name):
            raise UserError(f"--taxonomy {config.taxonomy}: the labels of face_synthetics have a taxonomy of their own")
        return FACE_SYNTHETICS
    if config.taxonomy is None:
        raise UserError("--taxonomy is required for --format pairs: what do the label ids mean?")
    return get_taxonomy(config.taxonomy)


def _lut(source: Taxonomy, target: Taxonomy) -> npt.NDArray[np.uint8] | None:
    if source == target:
        return None
    try:
        return remap_lut(source, target)
    except ValueError as error:
        raise UserError(f"--remap-to: {error}") from error


def _make_rows(
    samples: Sequence[RawSample], taxonomy: Taxonomy, lut: npt.NDArray[np.uint8] | None
) -> tuple[list[Row], list[Rejected]]:
    cv2.setNumThreads(1)
    rows: list[Row] = []
    rejected: list[Rejected] = []
    for sample in samples:
        try:
            rows.append(make_row(sample, taxonomy, lut))
        except BadSampleError as error:
            rejected.append(Rejected(source=sample.image, reason=error.reason, detail=str(error)))
    return rows, rejected


def make_row(sample: RawSample, taxonomy: Taxonomy, lut: npt.NDArray[np.uint8] | None = None) -> Row:
    """Checks one sample and packs it; image bytes stay untouched, labels are re-encoded only where they change.

    Raises BadSampleError with the reason where the sample cannot be used.
    """
    image_bytes, label_bytes = _read(sample.image), _read(sample.label)
    height, width = _check_image(image_bytes)
    label = decode_label(label_bytes)
    _check_label(label, (height, width), taxonomy)
    if lut is not None:
        label = lut[label]
    if lut is not None or not _is_plain_png(label_bytes):
        label_bytes = encode_png(label)
    meta = json.dumps({"source": sample.image})
    return Row(id=sample.id, image=image_bytes, label=label_bytes, height=height, width=width, meta=meta)


def _read(uri: str) -> bytes:
    try:
        data = storage.read_bytes(uri)
    except UserError as error:
        raise BadSampleError("unreadable", str(error)) from error
    if not data:
        raise BadSampleError("empty_file", f"{uri} has no content")
    return data


def _open(data: bytes) -> Image.Image:
    """Reads the header only, so that a bomb is refused before it is decoded."""
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BadSampleError("too_large", str(error)) from error
    except Exception as error:  # Pillow's readers raise many kinds of error for broken files
        raise BadSampleError("undecodable", f"not an image: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise BadSampleError("too_large", f"{image.width}x{image.height} pixels; at most {MAX_PIXELS} are read")
    return image


def _load(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # as above
        raise BadSampleError("undecodable", f"damaged {image.format} image: {error}") from error
    return image


def _check_image(data: bytes) -> tuple[int, int]:
    """(height, width) as decoded, that is after EXIF rotation."""
    image = _load(_open(data))  # unlike cv2, Pillow refuses a truncated JPEG
    if image.format != "JPEG" and cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None:
        raise BadSampleError("undecodable", f"OpenCV cannot decode this {image.format} of mode {image.mode}")
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


_EXIF_ORIENTATION = 0x0112


def decode_label(data: bytes) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 ids of a grey or palette PNG; of a palette PNG the indices.

    Raises BadSampleError for anything else: colours and lossy files hold no ids.
    """
    image = _load(_open(data))
    if image.format != "PNG" or image.mode not in ("L", "P"):
        raise BadSampleError(
            "label_not_ids", f"{image.format} of mode {image.mode}; expected an 8-bit grey or palette PNG"
        )
    values = np.asarray(image, np.uint8)
    # Grey of 2 or 4 bits is stretched to 0..255 when it is read; the ids are the unstretched values.
    return values if image.mode == "P" else values // np.uint8(255 // (2 ** _bit_depth(data) - 1))


def _bit_depth(png: bytes) -> int:
    return png[24]


def _is_plain_png(png: bytes) -> bool:
    """8-bit grey: what the packed data set holds. A palette PNG is not: OpenCV would read its colours."""
    return png[24:26] == b"\x08\x00"


def _check_label(label: npt.NDArray[np.uint8], image_size: tuple[int, int], taxonomy: Taxonomy) -> None:
    """The label is as large as the image, or an exact fraction of it, and its ids are of the taxonomy."""
    height, width = image_size
    factor = height // label.shape[0]
    if not factor or (label.shape[0] * factor, label.shape[1] * factor) != image_size:
        raise BadSampleError("label_size", f"label {label.shape[1]}x{label.shape[0]}, image {width}x{height}")
    ids = np.unique(label)
    unknown = ids[(ids >= taxonomy.num_classes) & (ids != IGNORE)]
    if unknown.size:
        raise BadSampleError("unknown_id", f"ids {unknown.tolist()} are not in {taxonomy.name}")
