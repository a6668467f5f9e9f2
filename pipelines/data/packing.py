"""Writes data sets: tasks on the cluster pack shards into Parquet files, then the driver writes the manifest.

Each finished shard leaves a receipt on storage. If a build was interrupted, the next attempt skips these shards.
"""

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from dmlcsr.taxonomy import Taxonomy
from pipelines import storage
from pipelines.config.base import Split
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
PROBLEMS_PER_PART = 100_000
"""Number of problems in a file of a table."""
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


def make_shards(items: Mapping[Split, Sequence[Any]], size: int) -> list[Shard]:
    """Cuts each split's items, in order, into shards of at most `size` items."""
    return [
        Shard(split, start // size, values[start : start + size])
        for split, values in items.items()
        for start in range(0, len(values), size)
    ]


def map_shards(
    out: str,
    shards: Sequence[Shard],
    work: Callable[[Shard], dict[str, Any]],
    verb: str = "packed",
    read_work: Callable[[Shard], Sequence[Any]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Applies `work` to each shard in a Ray Data task of its own; yields the results as the tasks finish.

    If an earlier attempt at `out` has finished a shard of the same items, the result is read from its receipt. If
    `read_work` is given, the task reads the items with it, so that they do not travel with the task.
    """
    if not shards:
        return

    def run(row: dict[str, Any]) -> dict[str, Any]:
        if read_work is not None:
            shard = Shard(*json.loads(row["shard"]))
            row = {"shard": json.dumps(shard._replace(work=read_work(shard)))}
        return run_once(out, row, work)

    num_kept = 0
    tasks = shard_rows(shards).map(run)
    for done, row in enumerate(tasks.iter_rows(), start=1):
        num_kept += row["is_kept"]
        kept = f", {num_kept} of them by an earlier attempt" if num_kept else ""
        log_count(f"{verb} {done} of {len(shards)} files{kept}", done, len(shards))
        yield json.loads(row["answer"])


def shard_rows(shards: Sequence[Shard]) -> ray.data.Dataset:
    """A Ray data set with one block for each shard, so that a task fetches only its own shard."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data.from_items([{"shard": json.dumps(s)} for s in shards], override_num_blocks=len(shards))


def read_answer(out: str, name: str) -> dict[str, Any]:
    """The result of a finished shard, from its receipt."""
    answer: dict[str, Any] = storage.read_json(storage.join(out, dataset.RECEIPTS, f"{name}.json"))["answer"]
    return answer


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


def write_manifest(
    out: str,
    taxonomy: Taxonomy | None,
    files: Mapping[Split, Sequence[DataFile]],
    rejected: Iterable[SampleProblem],
    lineage: Mapping[str, Any],
    **more: Any,
) -> Manifest:
    """Completes a data set whose files are written: writes the quarantine table, then the manifest.

    `more` are further fields of the manifest. Raises UserError if there are no usable rows.
    """
    if all(file.num_rejected == file.num_rows for entries in files.values() for file in entries):
        first = next(iter(rejected), None)
        raise UserError(
            f"no sample could be used; the first reason: {in_words(first) if first else 'the source is empty'}"
        )
    reasons = write_problems(out, QUARANTINE, rejected)
    splits = {split: tuple(sorted(entries, key=_number)) for split, entries in files.items()}
    manifest = Manifest(
        label_taxonomy=taxonomy,
        splits=splits,
        num_quarantined=sum(reasons.values()),
        reasons=reasons,
        lineage=dict(lineage),
        digest=dataset.digest_of(splits),
        **more,
    )
    dataset.finish_build(out, manifest.model_dump(mode="json"))
    return manifest


def _number(file: DataFile) -> tuple[int, str]:
    """A key that sorts files by their number, which has five digits or more."""
    return len(file.path), file.path


def count_reasons(findings: Iterable[SampleProblem]) -> dict[str, int]:
    """The number of problems by reason, in the order of the reasons."""
    return dict(sorted(Counter(finding["reason"] for finding in findings).items()))


def in_words(finding: SampleProblem) -> str:
    """A problem on one line: `<source>: <reason> (<detail>)`."""
    return printable("{source}: {reason} ({detail})".format(**finding))


def write_problems(out: str, table: str, findings: Iterable[SampleProblem]) -> dict[str, int]:
    """Writes `<table>/part-<number>.parquet`, each part sorted, and returns the number of problems by reason.

    The order of the findings decides in which part they are. Deletes the parts that an unfinished attempt left.
    """
    counts: Counter[str] = Counter()
    remaining, folder = iter(findings), storage.join(out, table)
    written: list[str] = []
    while part := list(islice(remaining, PROBLEMS_PER_PART)):
        counts.update(finding["reason"] for finding in part)
        part.sort(key=lambda finding: (finding["source"], finding["reason"], finding["detail"]))
        shown = [{name: printable(str(value)) for name, value in row.items()} for row in part]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(shown, schema=PROBLEM_SCHEMA), buffer)
        written.append(f"part-{len(written):05d}.parquet")
        storage.write_bytes(storage.join(folder, written[-1]), buffer.getvalue())
    for name in set(storage.list_names(folder)) - set(written):
        storage.delete(storage.join(folder, name))
    return dict(sorted(counts.items()))


def read_problems(out: str, table: str) -> list[SampleProblem]:
    """All problems of a table; no table means no problems. Raises UserError if it is no such table."""
    return list(iter_problems(out, table))


def iter_problems(out: str, table: str) -> Iterator[SampleProblem]:
    """Yields the problems of a table, of which one part is in memory at a time."""
    folder = storage.join(out, table)
    for name in storage.list_names(folder):
        uri = storage.join(folder, name)
        with storage.user_errors("read", uri):
            found = pq.read_table(io.BytesIO(storage.read_bytes(uri)))
            if found.schema.remove_metadata() != PROBLEM_SCHEMA or any(column.null_count for column in found.columns):
                raise ValueError("it has other columns than a table of problems")
            rows: list[SampleProblem] = found.to_pylist()
        yield from rows


def printable(text: str) -> str:
    """The text, with escapes if it holds control characters or bytes of file names that are not text."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
