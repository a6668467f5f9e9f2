"""Samples that cannot be used, from the file that is bad to the table that says why; without Ray."""

import io

import cv2
import numpy as np
import pyarrow.parquet as pq

from dmlcsr.taxonomy import LAPA
from pipelines import storage
from pipelines.data import packing
from pipelines.ingest import label_files, rows
from pipelines.ingest.label_rules import LabelReader
from pipelines.ingest.raw_files import RawSample


def sample(folder, name, image, label):
    """The files of a sample and its place among the raw ones."""
    places = [folder / f"{name}.{part}.png" for part in ("image", "label")]
    for place, pixels in zip(places, (image, label), strict=True):
        place.write_bytes(pixels if isinstance(pixels, bytes) else cv2.imencode(".png", pixels)[1].tobytes())
    return RawSample(name, str(places[0]), (("label", str(places[1])),))


def test_every_bad_sample_is_in_the_table_with_its_own_reason(tmp_path):
    image, label = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)
    samples = [
        sample(tmp_path, "good", image, label),
        sample(tmp_path, "empty", b"", label),
        sample(tmp_path, "damaged", b"no image", label),
        sample(tmp_path, "other_size", image, label[:7]),
        sample(tmp_path, "other_ids", image, label + 200),
    ]
    packed = rows.pack_samples(samples, LabelReader(LAPA, label_files.single, None, LAPA, None))
    assert [row["id"] for row in packed.rows] == ["good"]
    out = str(tmp_path / "out")
    packing.write_problems(out, packing.QUARANTINE, packed.rejected)
    table = storage.read_bytes(storage.join(out, packing.QUARANTINE, "part-00000.parquet"))
    reasons = {row["source"]: row["reason"] for row in pq.read_table(io.BytesIO(table)).to_pylist()}
    assert reasons == {
        samples[1].image: "empty_file",
        samples[2].image: "undecodable",
        samples[3].image: "label_size",
        samples[4].image: "unknown_id",
    }
