"""Writes data sets: tasks on the cluster pack shards into Parquet files, then the driver writes the manifest.

Each finished shard leaves a receipt on storage. If a build was interrupted, the next attempt skips these shards.
"""

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from dmlcsr.taxonomy import Taxonomy
from pipelines import storage
from pipelines.config.base import SPLITS, Split
from pipelines.data import dataset
from pipelines.data.dataset import DataFile, Manifest, Row
from pipelines.errors import UserError
from pipelines.run import console
from pipelines.run.progress import log_count

logger = logging.getLogger(__name__)
QUARANTINE, REMARKS = "quarantine", "remarks"
"""Tables beside the data: rejected samples, and remarks about accepted rows that may be wrong."""
MIRRORED = "looks_mirrored"
"""Reason of a remark about a row whose left and right ids look swapped."""
RECEIPT_VERSION = 4
"""Version of a receipt; a shard whose receipt has another version is packed again."""


class SampleProblem(TypedDict):
    """A problem of a sample: its file or row, the reason (a key of the quarantine table), and details in words."""

    source: str
    reason: str
    detail: str


PROBLEM_SCHEMA = pa.schema([(name, pa.string()) for name in ("source", "reason", "detail")])


class PackedRows(NamedTuple):
    """Result of packing some samples: rows, rejected samples, remarks about accepted rows, and facts about them.

    A fact is a JSON object about one row, for checks of the whole set.
    """

    rows: list[Row]
    rejected: list[SampleProblem]
    remarks: list[SampleProblem]
    facts: Sequence[Mapping[str, Any]] = ()


class Shard(NamedTuple):
    """The work that makes one file: its split, its number in the split, and the samples or ranges to make rows from.

    Ray tasks receive a shard as JSON, so a tuple in `work` arrives as a list.
    """

    split: Split
    number: int
    work: Sequence[Any]

    @property
    def name(self) -> str:
        return f"{self.split}/part-{self.number:05d}"

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.work).encode()).hexdigest()


MakeRows = Callable[[Sequence[Any]], PackedRows]


class SetChecks(Protocol):
    """Checks of the whole set, on the driver."""

    def add(self, split: Split, facts: Sequence[Mapping[str, Any]]) -> None:
        """Adds the facts about the rows of one shard."""

    def remarks(self, remarks: Sequence[SampleProblem]) -> list[SampleProblem]:
        """The remarks to write, given those about single rows."""


def make_shards(items: Mapping[Split, Sequence[Any]], size: int) -> list[Shard]:
    """Cuts each split's items, in order, into shards of at most `size` items."""
    return [
        Shard(split, start // size, values[start : start + size])
        for split, values in items.items()
        for start in range(0, len(values), size)
    ]


def map_shards(
    out: str, shards: Sequence[Shard], work: Callable[[Shard], dict[str, Any]], verb: str = "packed"
) -> Iterator[dict[str, Any]]:
    """Applies `work` to each shard in a Ray Data task of its own; yields the results as the tasks finish.

    If an earlier attempt at `out` has finished a shard of the same items, the result is read from its receipt.
    """
    if not shards:
        return
    num_kept = 0
    tasks = shard_rows(shards).map(lambda row: run_once(out, row, work))
    for done, row in enumerate(tasks.iter_rows(), start=1):
        num_kept += row["is_kept"]
        kept = f", {num_kept} of them by an earlier attempt" if num_kept else ""
        log_count(f"{verb} {done} of {len(shards)} files{kept}", done, len(shards))
        yield json.loads(row["answer"])


def shard_rows(shards: Sequence[Shard]) -> ray.data.Dataset:
    """A Ray data set with one block for each shard, so that a task fetches only its own shard."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data.from_items([{"shard": json.dumps(s)} for s in shards], override_num_blocks=len(shards))


def run_once(
    out: str, row: dict[str, Any], work: Callable[[Shard], dict[str, Any]], receipts: str = dataset.RECEIPTS
) -> dict[str, Any]:
    """Returns the result of `work` for a shard, or the one in its receipt if an earlier attempt has finished it."""
    console.forward_logs_to_driver()
    shard = Shard(*json.loads(row["shard"]))
    receipt = storage.join(out, receipts, f"{shard.name}.json")
    found = storage.find_json(receipt) or {}
    is_kept = (found.get("format_version"), found.get("work")) == (RECEIPT_VERSION, shard.digest())
    answer = found["answer"] if is_kept else work(shard)
    if not is_kept:
        content = {"format_version": RECEIPT_VERSION, "work": shard.digest(), "answer": answer}
        storage.write_json(receipt, content)
    return {"answer": json.dumps(answer), "is_kept": is_kept}


def pack(
    out: str,
    items: Mapping[Split, Sequence[Any]],
    make_rows: MakeRows,
    taxonomy: Taxonomy | None,
    lineage: Mapping[str, Any],
    rejected: Sequence[SampleProblem] = (),
    rows_per_group: int = dataset.ROWS_PER_GROUP,
    set_checks: SetChecks | None = None,
    ignored: Mapping[str, int] | None = None,
) -> Manifest:
    """Packs all items into a data set at `out`, which the caller has claimed; writes the manifest last.

    `make_rows` gets the items of one row group per call. `rejected` are samples that were rejected before packing,
    `ignored` counts the files of the source that belong to none.
    Raises UserError if no sample can be used.
    """

    def write(shard: Shard) -> dict[str, Any]:
        bad: list[SampleProblem] = []
        remarks: list[SampleProblem] = []
        facts: list[Mapping[str, Any]] = []

        def rows() -> Iterable[Row]:
            for start in range(0, len(shard.work), rows_per_group):
                batch = make_rows(shard.work[start : start + rows_per_group])
                bad.extend(batch.rejected)
                remarks.extend(batch.remarks)
                facts.extend(batch.facts)
                yield from batch.rows

        file = dataset.write_file(out, shard.name, rows(), rows_per_group)
        answer = {"split": shard.split, "file": file and file.model_dump(), "rejected": bad}
        return answer | {"remarks": remarks, "facts": facts}

    files: dict[Split, list[DataFile]] = {split: [] for split in SPLITS}
    bad, remarks = list(rejected), []
    for answer in map_shards(out, make_shards(items, rows_per_group * dataset.GROUPS_PER_FILE), write):
        if answer["file"]:
            files[answer["split"]].append(DataFile.model_validate(answer["file"]))
        bad.extend(answer["rejected"])
        remarks.extend(answer["remarks"])
        if set_checks is not None:
            set_checks.add(answer["split"], answer["facts"])
    if set_checks is not None:
        remarks = set_checks.remarks(remarks)
    write_problems(out, REMARKS, remarks)
    counts = count_reasons(remarks)
    more = {"rows_per_group": rows_per_group, "remarks": counts, "ignored": ignored or {}}
    return write_manifest(out, taxonomy, files, bad, lineage, **more)


def write_manifest(
    out: str,
    taxonomy: Taxonomy | None,
    files: Mapping[Split, Sequence[DataFile]],
    rejected: Sequence[SampleProblem],
    lineage: Mapping[str, Any],
    **more: Any,
) -> Manifest:
    """Completes a data set whose files are written: writes the quarantine table, then the manifest.

    `more` are further fields of the manifest. Raises UserError if there are no usable rows.
    """
    if all(file.num_rejected == file.num_rows for entries in files.values() for file in entries):
        reason = in_words(rejected[0]) if rejected else "the source is empty"
        raise UserError(f"no sample could be used; the first reason: {reason}")
    write_problems(out, QUARANTINE, rejected)
    splits = {split: tuple(sorted(entries, key=lambda file: file.path)) for split, entries in files.items()}
    manifest = Manifest(
        label_taxonomy=taxonomy,
        splits=splits,
        num_quarantined=len(rejected),
        reasons=count_reasons(rejected),
        lineage=dict(lineage),
        digest=dataset.digest_of(splits),
        **more,
    )
    dataset.finish_build(out, manifest.model_dump(mode="json"))
    return manifest


def count_reasons(findings: Iterable[SampleProblem]) -> dict[str, int]:
    """The number of problems by reason, in the order of the reasons."""
    return dict(sorted(Counter(finding["reason"] for finding in findings).items()))


def in_words(finding: SampleProblem) -> str:
    """A problem on one line: `<source>: <reason> (<detail>)`."""
    return printable("{source}: {reason} ({detail})".format(**finding))


def write_problems(out: str, table: str, findings: Sequence[SampleProblem]) -> None:
    """Writes `<table>/part-00000.parquet`, sorted. Deletes this file if there are no findings."""
    uri = storage.join(out, table, "part-00000.parquet")
    if not findings:
        storage.delete(uri)  # an earlier, unfinished attempt may have written one
        return
    rows = sorted(findings, key=lambda finding: (finding["source"], finding["reason"], finding["detail"]))
    shown = [{name: printable(str(value)) for name, value in row.items()} for row in rows]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(shown, schema=PROBLEM_SCHEMA), buffer)
    storage.write_bytes(uri, buffer.getvalue())


def read_problems(out: str, table: str) -> list[SampleProblem]:
    """Reads `<table>/part-00000.parquet`; no file means no problems. Raises UserError if it is no such table."""
    uri = storage.join(out, table, "part-00000.parquet")
    data = storage.find_bytes(uri)
    if data is None:
        return []
    with storage.user_errors("read", uri):
        found = pq.read_table(io.BytesIO(data))
        if found.schema.remove_metadata() != PROBLEM_SCHEMA or any(column.null_count for column in found.columns):
            raise ValueError("it has other columns than a table of problems")
        rows: list[SampleProblem] = found.to_pylist()
    return rows


def printable(text: str) -> str:
    """The text, with escapes if it holds control characters or bytes of file names that are not text."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
