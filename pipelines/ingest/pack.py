"""Packs samples into the files of a data set: a task for each file, then the driver writes the manifest."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from dmlcsr.taxonomy import Taxonomy
from pipelines.config.base import SPLITS, Split
from pipelines.data import dataset, packing
from pipelines.data.dataset import DataFile, Manifest, Row
from pipelines.data.packing import PackedRows, SampleProblem, Shard

MAX_GROUPS = 1024
"""Maximum number of row groups in a file."""
FILE_BYTES = 256 << 20
"""Target size of the images in a file. With labels, a file of large images has between 128 and 512 MB."""
_GROUP_BYTES = 8 << 20
"""Target size of the images in a row group."""
_MIN_FILES = 16
"""Number of files that a split is divided into if it has as many row groups, so that several workers have work."""
MakeRows = Callable[[Sequence[Any]], PackedRows]


class Items(Protocol):
    """The samples to pack. Tasks receive it, so it holds nothing per sample."""

    def num_rows(self) -> dict[Split, int]:
        """The number of samples in each split."""

    def read(self, split: Split, start: int, stop: int) -> Sequence[Any]:
        """The samples `start` to before `stop` of a split, each of them as JSON can hold it."""


class SetChecks(Protocol):
    """Checks of the whole set, on the driver."""

    def summed(self, facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The facts about the rows of a shard, in a task."""

    def add(self, split: Split, shard: str, facts: Mapping[str, Any]) -> None:
        """Adds the facts about the rows of one shard."""

    def remarks(
        self, remarks: Callable[[], Iterator[SampleProblem]], read_facts: Callable[[str], Mapping[str, Any]]
    ) -> Iterator[SampleProblem]:
        """Yields the remarks to write, given those about single rows. `read_facts` reads those of a shard again."""


def rows_per_group(mean_bytes: float) -> int:
    """The number of rows in a row group: about 8 MiB of images of this mean size."""
    return int(np.clip(_GROUP_BYTES // max(mean_bytes, 1), 1, dataset.ROWS_PER_GROUP))


def groups_per_file(num_rows: int, mean_bytes: float) -> int:
    """The number of row groups in each file of a split with this number of rows."""
    size = rows_per_group(mean_bytes)
    num_groups = -(-num_rows // size)
    of_size = int(FILE_BYTES // max(size * mean_bytes, 1))
    return max(1, min(MAX_GROUPS, of_size, num_groups // _MIN_FILES))


def make_shards(num_rows: Mapping[Split, int], mean_bytes: float) -> list[Shard]:
    """A shard `[start, stop]` for each file. Each begins with a row group."""
    shards = []
    for split, count in num_rows.items():
        size = rows_per_group(mean_bytes) * groups_per_file(count, mean_bytes)
        starts = range(0, count, size)
        shards += [Shard(split, number, [start, min(start + size, count)]) for number, start in enumerate(starts)]
    return shards


def pack(
    out: str,
    items: Items,
    make_rows: MakeRows,
    mean_bytes: float,
    taxonomy: Taxonomy | None,
    lineage: Mapping[str, Any],
    rejected: Callable[[], Iterator[SampleProblem]] = lambda: iter(()),
    set_checks: SetChecks | None = None,
    ignored: Mapping[str, int] | None = None,
) -> Manifest:
    """Packs all items into a data set at `out`, which the caller has claimed; writes the manifest last.

    `make_rows` gets the items of one row group per call. `mean_bytes` is the mean size of an image, `rejected` yields
    samples that were rejected before packing, `ignored` counts the files of the source that belong to none.
    Raises UserError if no sample can be used.
    """
    size = rows_per_group(mean_bytes)

    def write(shard: Shard) -> dict[str, Any]:
        return _write_shard(out, shard, make_rows, size, set_checks)

    def read(shard: Shard) -> Sequence[Any]:
        return items.read(shard.split, *shard.work)

    files: dict[Split, list[DataFile]] = {split: [] for split in SPLITS}
    noted: dict[str, list[str]] = {"rejected": [], "remarks": []}
    for answer in packing.map_shards(out, make_shards(items.num_rows(), mean_bytes), write, read_work=read):
        if answer["file"]:
            files[answer["split"]].append(DataFile.model_validate(answer["file"]))
        for kind, shards in noted.items():
            shards += [answer["shard"]] if answer[kind] else []
        if set_checks is not None:
            set_checks.add(answer["split"], answer["shard"], answer["facts"])

    def noted_in(kind: str) -> Iterator[SampleProblem]:
        """Reads problems again from the receipts: a set may have more of them than fit into memory."""
        for shard in sorted(noted[kind]):
            yield from packing.read_answer(out, shard)[kind]

    def all_rejected() -> Iterator[SampleProblem]:
        yield from rejected()
        yield from noted_in("rejected")

    found = noted_in("remarks")
    if set_checks is not None:
        found = set_checks.remarks(lambda: noted_in("remarks"), lambda shard: packing.read_answer(out, shard)["facts"])
    counts = packing.write_problems(out, packing.REMARKS, found)
    more = {"rows_per_group": size, "remarks": counts, "ignored": ignored or {}}
    return packing.write_manifest(out, taxonomy, files, all_rejected(), lineage, **more)


def _write_shard(
    out: str, shard: Shard, make_rows: MakeRows, size: int, set_checks: SetChecks | None
) -> dict[str, Any]:
    """Packs the items of a shard and writes its file, one row group at a time."""
    rejected: list[SampleProblem] = []
    remarks: list[SampleProblem] = []
    facts: list[Mapping[str, Any]] = []

    def rows() -> Iterator[Row]:
        for start in range(0, len(shard.work), size):
            batch = make_rows(shard.work[start : start + size])
            rejected.extend(batch.rejected)
            remarks.extend(batch.remarks)
            facts.extend(batch.facts)
            yield from batch.rows

    file = dataset.write_file(out, shard.name, rows(), size)
    answer = {"split": shard.split, "shard": shard.name, "file": file and file.model_dump(), "rejected": rejected}
    return answer | {"remarks": remarks, "facts": set_checks.summed(facts) if set_checks is not None else {}}
