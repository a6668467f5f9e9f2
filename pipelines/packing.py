"""Writes data sets: shards of work become Parquet files on the workers of the cluster, then one manifest."""

import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from dmlcsr.taxonomy import Taxonomy
from pipelines import dataset, storage
from pipelines.config import Split
from pipelines.dataset import DataFile, Manifest, Row
from pipelines.errors import UserError

logger = logging.getLogger(__name__)
ItemT = TypeVar("ItemT")


class Rejected(TypedDict):
    """A bad sample: where it came from, why it is not in the data set, and the details."""

    source: str
    reason: str
    detail: str


class Shard(NamedTuple):
    """What becomes one file: its split, its number inside the split, and the items to make rows from."""

    split: Split
    number: int
    items: Sequence[Any]

    @property
    def path(self) -> str:
        return f"{self.split}/part-{self.number:05d}.parquet"


MakeRows = Callable[[Sequence[Any]], tuple[list[Row], list[Rejected]]]


def make_shards(items: Mapping[Split, Sequence[Any]]) -> list[Shard]:
    """Cuts each split's items into shards of one file each, in order."""
    size = dataset.ROWS_PER_FILE
    return [
        Shard(split, start // size, values[start : start + size])
        for split, values in items.items()
        for start in range(0, len(values), size)
    ]


def map_shards(shards: Sequence[ItemT], work: Callable[[ItemT], dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Applies `work` to each shard in a Ray Data task of its own; yields the answers as they come."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    stored = [ray.put(shard) for shard in shards]  # a task fetches its own shard only

    def call(row: dict[str, Any]) -> dict[str, Any]:
        return {"answer": json.dumps(work(ray.get(stored[row["id"]])))}

    tasks = ray.data.range(len(shards), override_num_blocks=len(shards)).map(call)
    for row in tasks.iter_rows():
        yield json.loads(row["answer"])


def pack(
    out: str,
    items: Mapping[Split, Sequence[Any]],
    make_rows: MakeRows,
    taxonomy: Taxonomy,
    lineage: Mapping[str, Any],
    rejected: Sequence[Rejected] = (),
) -> Manifest:
    """Makes a whole data set at `out`, which `dataset.begin` has claimed, and commits it.

    `rejected` are samples that were refused before packing. Raises UserError where no row at all is good.
    """

    def write(shard: Shard) -> dict[str, Any]:
        rows, bad = make_rows(shard.items)
        file = dataset.write_file(out, shard.path, rows).model_dump() if rows else None
        return {"split": shard.split, "file": file, "rejected": bad}

    shards = make_shards(items)
    files: dict[Split, list[DataFile]] = {split: [] for split in dataset.SPLITS}
    bad = list(rejected)
    for done, answer in enumerate(map_shards(shards, write), start=1):
        if answer["file"]:
            files[answer["split"]].append(DataFile.model_validate(answer["file"]))
        bad.extend(answer["rejected"])
        logger.info("packed %d of %d files", done, len(shards))
    if not any(files.values()):
        raise UserError(f"no sample could be used; the first reason: {_first(bad)}")
    write_quarantine(out, bad)
    splits = {split: tuple(sorted(entries, key=lambda file: file.path)) for split, entries in files.items()}
    manifest = Manifest(
        taxonomy=taxonomy.name,
        classes=taxonomy.classes,
        splits=splits,
        num_quarantined=len(bad),
        reasons=dict(sorted(Counter(sample["reason"] for sample in bad).items())),
        lineage=dict(lineage),
        digest=dataset.digest_of(splits),
    )
    dataset.commit(out, manifest.model_dump(mode="json"))
    return manifest


def _first(rejected: Sequence[Rejected]) -> str:
    return "{source}: {reason} ({detail})".format(**rejected[0]) if rejected else "the source is empty"


def write_quarantine(out: str, rejected: Sequence[Rejected]) -> None:
    """Writes the table of bad samples to `quarantine/part-00000.parquet`, sorted; none where all are good."""
    uri = storage.join(out, "quarantine", "part-00000.parquet")
    if not rejected:
        storage.delete(uri)  # an earlier, unfinished attempt may have left one
        return
    rows = sorted(rejected, key=lambda sample: (sample["source"], sample["reason"]))
    schema = pa.schema([(name, pa.string()) for name in ("source", "reason", "detail")])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    storage.write_bytes(uri, buffer.getvalue())
