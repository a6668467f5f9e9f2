"""Makes rows of samples: checks image and label, encodes the label, and notes what is odd about them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from dmlcsr.image_files import BadSampleError
from dmlcsr.relations import PartPositions, agreements
from pipelines import storage
from pipelines.data.dataset import Row
from pipelines.data.images import check_label, decode_label, encode_png
from pipelines.data.packing import MIRRORED, PackedRows, SampleProblem
from pipelines.errors import UserError
from pipelines.ingest import checks, remarks
from pipelines.ingest.duplicates import image_hash
from pipelines.ingest.label_files import LABEL, Label
from pipelines.ingest.label_rules import LabelReader
from pipelines.ingest.raw_files import RawSample

_NO_LABEL: Mapping[str, Any] = {"agreements": {}, "is_mirrored": False}
"""Facts about a row without a label."""


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
        batch.remarks.extend(found.remarks)
        facts.append(found.facts)
    return batch


class Observed(NamedTuple):
    """Observations about a packed row: remarks about it, and facts for the checks of the whole set."""

    remarks: list[SampleProblem]
    facts: dict[str, Any]


def make_row(
    sample: RawSample, rules: LabelReader | None, files: Mapping[str, bytes | UserError]
) -> tuple[Row, Observed]:
    """Checks and packs one sample; returns its row, and what was observed. The row has no label if `rules` is None.

    Image bytes are not changed. A label file is packed unchanged if it is a plain PNG of the final ids, and else
    encoded again. Raises BadSampleError, with the reason, if the sample cannot be used.
    """
    image = _content(files, sample.image)
    size = checks.check_image(image)
    meta = json.dumps({"source": sample.image})
    row = Row(id=sample.id, image=image, label=None, height=size[0], width=size[1], meta=meta)
    observed = Observed([], {"id": sample.id, "hash": image_hash(image, size), **_NO_LABEL})
    if rules is None:
        return row, observed
    parts = {role: _content(files, uri) for role, uri in sample.label}
    in_source = rules.compose(parts)
    label = rules.translated(in_source)
    remarks.check_rotation(image, label, size)
    check_label(label, size, rules.taxonomy)
    observed.remarks.extend(remarks.about(sample.id, image, label, rules.taxonomy))
    observed.facts["agreements"] = agreements(PartPositions.of(in_source), rules.taxonomy)
    observed.facts["is_mirrored"] = any(remark["reason"] == MIRRORED for remark in observed.remarks)
    final = label if rules.lut is None else rules.lut[label]
    encoded = parts.get(LABEL)
    row["label"] = encoded if encoded is not None and _holds(encoded, final) else encode_png(final)
    return row, observed


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
