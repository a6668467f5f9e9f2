"""Rows of a data set that cannot be used: damaged ones, and rows without a label where labels are needed.

Such a row never ends a command: it is left out, counted and listed. A training keeps one record for each of them. Its
name follows from the row id, so a row is counted once, whatever the number of ranks, epochs and repetitions. Errors of
the storage are no damage: they are raised where rows are read.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dmlcsr.image_files import BadSampleError
from dmlcsr.taxonomy import Taxonomy
from pipelines import storage
from pipelines.config.base import SPLITS, Split
from pipelines.data.images import Pixels, check_label, decode_image, decode_label
from pipelines.data.packing import PROBLEM_SCHEMA, SampleProblem, in_words
from pipelines.data.versions import QUARANTINED, RULE
from pipelines.errors import DataSetError, UserError
from pipelines.run.paths import RunPaths

logger = logging.getLogger(__name__)
COLUMNS = ("id", "image", "label", "height", "width", RULE)
"""The columns that `decode_row` and `problem_of` need."""


def decode_row(row: Mapping[str, Any], taxonomy: Taxonomy, factor: int = 1) -> tuple[Pixels, Pixels]:
    """Decodes image and label of a row. Raises BadSampleError if the row cannot be used.

    A factor of 2, 4 or 8 divides height and width of a JPEG.
    """
    if row["label"] is None:
        if row.get(RULE) == QUARANTINED:
            raise BadSampleError(QUARANTINED, "`relabel` could not use the row; its quarantine table says why")
        raise BadSampleError("image_without_label", "the row has no label")
    image = decode_image(row["image"], factor)
    label = decode_label(row["label"])
    check_label(label, (row["height"], row["width"]), taxonomy)
    return image, label


def problem_of(row: Mapping[str, Any], error: BadSampleError) -> SampleProblem:
    return SampleProblem(source=row["id"], reason=error.reason, detail=str(error))


def write_records(folder: str, problems: Iterable[SampleProblem]) -> None:
    """Writes the record of each row, if it has none."""
    for problem in problems:
        name = hashlib.sha256(problem["source"].encode()).hexdigest()[:32]
        storage.create_bytes(storage.join(folder, f"{name}.json"), json.dumps(problem).encode())


def list_records(folder: str) -> list[str]:
    """The URIs of all records in a folder, without what killed writes have left there."""
    files = storage.list_files(folder) if storage.exists(folder) else []
    return [uri for uri in files if uri.endswith(".json")]


def count_records(run: str) -> int:
    """The number of records of all splits of a run. A run without any costs one request."""
    paths = RunPaths(run)
    found = storage.list_names(paths.all_bad_rows)
    splits: list[Split] = [split for split in SPLITS if split in found]
    return sum(len(list_records(paths.bad_rows(split))) for split in splits)


def read_record(uri: str) -> SampleProblem:
    """The record of a row. Raises UserError if the file holds anything else."""
    found = storage.read_json(uri)
    source, reason, detail = (found.get(name) for name in PROBLEM_SCHEMA.names)
    if not (isinstance(source, str) and isinstance(reason, str) and isinstance(detail, str)):
        raise UserError(f"{uri} holds no record of a bad row; delete it")
    return SampleProblem(source=source, reason=reason, detail=detail)


@dataclass
class BadRowLimit:
    """The largest fraction of bad rows in one split, and how many of them are known."""

    run: str
    """Run directory that holds the records."""
    data: str
    split: Split
    num_rows: int
    max_fraction: float
    num_known: int = 0

    def check(self) -> None:
        """Counts the records, and logs their number if it has changed.

        Raises DataSetError if they are more than the fraction.
        """
        folder = RunPaths(self.run).bad_rows(self.split)
        records = list_records(folder)
        if len(records) == self.num_known:
            return
        self.num_known = len(records)
        share = f"{self.num_known} of the {self.num_rows} {self.split} rows of {self.data} cannot be used"
        example = in_words(read_record(records[0]))
        if self.num_known > self.max_fraction * self.num_rows:
            raise DataSetError(
                f"{share}, more than --max-bad-fraction {self.max_fraction:g}; one of them: {example}; {folder} lists "
                "them; ingest the data again, or repeat the same command with a larger fraction"
            )
        logger.warning("%s and are left out; one of them: %s; %s lists them", share, example, folder)
