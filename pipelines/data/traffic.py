"""Estimates the bytes and requests with which a command reads and writes the rows of a data set."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.config.base import Split
from pipelines.data import row_groups
from pipelines.data.dataset import DataFile, Manifest

_PART_BYTES = 50 << 20
"""Size of the parts in which a larger file is uploaded, one request each (s3fs)."""
_ROW_BYTES = 128
"""Bytes of a row of labels beside its label: id, scores, and what Parquet adds."""


@dataclass(frozen=True)
class Traffic:
    """Bytes, and requests to an object store; a local folder has no requests."""

    num_bytes: int
    requests: int

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.num_bytes + other.num_bytes, self.requests + other.requests)


def reading(manifest: Manifest, splits: Iterable[Split], num_processes: int = 1) -> Traffic:
    """Every row once: a request for each row group of each file, and one for each footer in each process.

    A process forgets footers of long data sets and reads them again, so the requests may be more.
    """
    found = Traffic(0, 0)
    for file in _files(manifest, splits):
        num_groups = math.ceil(file.num_rows / manifest.rows_per_group)
        for num_bytes in (file.num_bytes, *([file.images.num_bytes] if file.images else [])):
            found += Traffic(num_bytes, num_groups + num_processes)
    return found


def writing_labels(uri: str, manifest: Manifest, splits: Sequence[Split]) -> Traffic:
    """The files of a new version with labels of the size of the present ones, and their receipts."""
    found = Traffic(0, 3)  # claim, worst rows, manifest
    for split in splits:
        files = manifest.splits.get(split, ())
        mean = _label_bytes(uri, manifest, split) if files else 0.0
        for file in files:
            num_bytes = int(file.num_rows * (mean + _ROW_BYTES))
            found += Traffic(num_bytes, math.ceil(num_bytes / _PART_BYTES) + 1)
    return found


def writing_copy(manifest: Manifest, splits: Iterable[Split]) -> Traffic:
    """The files with images and labels of a data set that stands alone, and their receipts."""
    found = Traffic(0, 2)  # claim, manifest
    for file in _files(manifest, splits):
        num_bytes = file.num_bytes + (file.images.num_bytes if file.images else 0)
        found += Traffic(num_bytes, math.ceil(num_bytes / _PART_BYTES) + 1)
    return found


def _files(manifest: Manifest, splits: Iterable[Split]) -> list[DataFile]:
    return [file for split in splits for file in manifest.splits.get(split, ())]


def _label_bytes(uri: str, manifest: Manifest, split: Split) -> float:
    """The mean size of a label in bytes, from the footer of the first file of the split."""
    source = row_groups.open_split(uri, manifest, split)
    return row_groups.column_bytes(source, 0, "label") / manifest.splits[split][0].num_rows
