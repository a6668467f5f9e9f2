"""How time, memory and requests grow with the number of rows. Prints a table for each section.

python -m tests.benchmarks.scale                              all sections; about ten minutes on 2 cores
python -m tests.benchmarks.scale --sections streams --rows 10000 100000000

Kinds of figures:
- measured: the program works on real files.
- simulated: the files are made up. All of them are links to a real one, so what is located, planned, sent, read and
  decoded is real, and only the caches of the disk are better than they would be.
- computed: from other figures of the same table.

`exponent` is that of the power of the number of rows with which a figure grows between the first and the last column.
"""

import argparse
import math
import multiprocessing
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cluster.object_store import object_store
from dmlcsr.augment import Augmentation
from dmlcsr.taxonomy import LAPA
from dmlcsr.weights import Preprocessing
from pipelines import storage
from pipelines.bench import stream as bench_stream
from pipelines.data import dataset, row_groups
from pipelines.data.bad_rows import COLUMNS
from pipelines.data.bases import Base, FileRef
from pipelines.data.dataset import ROWS_PER_GROUP, Manifest, Row
from pipelines.data.decode_tasks import Columns
from pipelines.data.images import encode_png
from pipelines.data.order import EpochOrder, Groups
from pipelines.data.ordered import OrderedRows
from pipelines.data.row_groups import SplitFiles
from pipelines.data.stream import ChunkPart, PlacedRow, TrainStream
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session
from tests.support.commands import variables
from tests.support.data_sets import split_files
from tests.support.proxy import Proxy, proxy

Kind = Literal["measured", "simulated", "computed"]
SIDE, CANVAS, TASKS = 32, 64, 2
DELAY_SECONDS = 0.03
ROWS_PER_FILE = (16_384, 1_300)
"""Row groups that are all full, and files that all end with a short one."""


class Figure(NamedTuple):
    """A quantity, by the number of rows."""

    name: str
    kind: Kind
    values: Mapping[int, float]
    unit: str = ""


def exponent(values: Mapping[int, float]) -> float | None:
    (first, low), *_, (last, high) = [*sorted(values.items())] * 2
    return math.log(high / low) / math.log(last / first) if last > first and low > 0 and high > 0 else None


def print_table(title: str, rows: Sequence[int], figures: Sequence[Figure]) -> None:
    print(f"\n## {title}\n\n| quantity | kind | " + " | ".join(f"{count:.0e}" for count in rows) + " | exponent |")
    print("|---|---|" + "---:|" * (len(rows) + 1))
    for figure in figures:
        shown = {count: f"{value:,.4g} {figure.unit}".strip() for count, value in figure.values.items()}
        cells = [shown.get(count, "") for count in rows]
        grown = exponent(figure.values) if len(figure.values) > 1 else None
        print(f"| {figure.name} | {figure.kind} | {' | '.join(cells)} | {'' if grown is None else f'{grown:.2f}'} |")


# Streams: the plan of an epoch, what travels to tasks, the first batch, the memory of a decoding process, requests.


def write_file(folder: Path, num_rows: int, side: int = SIDE) -> dataset.DataFile:
    rng = np.random.default_rng(0)
    images = [encode_png(rng.integers(0, 256, (side, side, 3), np.uint8)) for _ in range(ROWS_PER_GROUP)]
    label = encode_png(np.zeros((side, side), np.uint8))
    rows = [
        Row(id=f"{number}", image=images[number % len(images)], label=label, height=side, width=side, meta="{}")
        for number in range(num_rows)
    ]
    file = dataset.write_file(str(folder), "train/part-00000", rows)
    assert file is not None
    return file


def made_up_split(folder: Path, rows_per_file: int, num_rows: int) -> SplitFiles:
    """A split of about this number of rows, whose files are all links to a real one."""
    file = write_file(folder, min(rows_per_file, num_rows))
    num_files = max(1, round(num_rows / file.num_rows))
    links = Path(tempfile.mkdtemp(dir=folder))
    for number in range(num_files):
        (links / f"part-{number:05d}.parquet").symlink_to(folder / file.path)
    return split_files(
        [f"{links}/part-{number:05d}.parquet" for number in range(num_files)],
        np.full(num_files, file.num_bytes),
        Groups(np.full(num_files, file.num_rows), ROWS_PER_GROUP),
        LAPA,
        "made up",
    )


@dataclass(frozen=True, kw_only=True)
class WatchedStream(TrainStream):
    """A stream whose tasks note the peak memory of their process, in bytes."""

    notes: str

    def decode(self, part: ChunkPart, rows: Iterable[PlacedRow] | None = None) -> Columns:
        columns = super().decode(part, rows)
        (Path(self.notes) / str(os.getpid())).write_text(str(own_memory()))
        return columns


def own_memory() -> int:
    """The memory of this process that it shares with no other one, in bytes: heap and stacks, not mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def make_stream(source: SplitFiles, notes: Path) -> WatchedStream:
    return WatchedStream(
        source=source, augmentation=Augmentation(), size=CANVAS, batch_size=28, seed=0, rank=0, world_size=1,
        notes=str(notes),
    )  # fmt: skip


def measure_stream(rows_per_file: int, num_rows: int) -> dict[str, float]:
    """The figures of one split, measured in a process with a Ray of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "notes").mkdir()
        source = made_up_split(folder, rows_per_file, num_rows)
        stream = make_stream(source, folder / "notes")
        found: dict[str, float] = {}
        order = EpochOrder(source.groups, 0, 0, stream.chunk_rows)
        begin = time.perf_counter()
        for position in np.linspace(0, source.num_rows - 1, 100).astype(int).tolist():
            list(order.pieces(*order.chunk_of(position)))
        found["located"] = (time.perf_counter() - begin) * 10
        found["sent"] = len(pickle.dumps(source)) / 1e6
        with ray_session(Needs(cpus=TASKS)):
            list(make_stream(made_up_split(folder, 1_300, 1_300), folder / "notes").batches(0, 1, TASKS))  # warm up
            begin = time.perf_counter()
            with closing(stream.batches(0, 1, TASKS)) as batches:
                next(batches)
                found["first"] = time.perf_counter() - begin
                for _ in islice(batches, min(60, stream.num_batches - 1)):
                    pass
            begin = time.perf_counter()
            with closing(
                OrderedRows(source=source, preprocessing=Preprocessing(size=CANVAS)).batches(28, TASKS)
            ) as ordered:
                next(ordered)
                found["ordered"] = time.perf_counter() - begin
        found["memory"] = max(int(path.read_text()) for path in (folder / "notes").iterdir()) / 1e6
        return found


def in_own_process(work: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def streams(rows: Sequence[int]) -> None:
    for rows_per_file in ROWS_PER_FILE:
        found = {count: in_own_process(measure_stream, rows_per_file, count) for count in rows}
        names = [
            ("lookup of the row groups of a chunk", "located", "ms"),
            ("sent to tasks, once for each plan", "sent", "MB"),
            ("first batch", "first", "s"),
            ("first batch of an ordered pass", "ordered", "s"),
            ("memory of a decoding process of its own", "memory", "MB"),
        ]
        figures = [
            Figure(title, "simulated", {count: values[key] for count, values in found.items()}, unit)
            for title, key, unit in names
        ]
        print_table(f"Streams, {rows_per_file:,} rows in a file", rows, figures)


# Reads: one decoding process and a store that answers later.


@contextmanager
def slow_store(folder: Path) -> Iterator[Proxy]:
    """A local S3 server behind a proxy that delays each request."""

    def delay(method: str, target: str) -> None:
        time.sleep(DELAY_SECONDS)

    with (
        object_store(folder) as store,
        proxy(store.environment["AWS_ENDPOINT_URL"]) as running,
        variables(dict(store.environment) | {"AWS_ENDPOINT_URL": running.endpoint}),
    ):
        storage.filesystem("s3://bucket")[0].mkdir("bucket")
        running.rule = delay
        yield running


def first_reads(source: SplitFiles, forget: bool) -> float:
    """The seconds until the first row group of a chunk of four is there, a median; with known footers or without."""
    found = []
    for number in range(12):
        if forget:
            row_groups.forget_footers()
        pieces = [source.groups.whole((4 * number + place) % source.groups.num_groups) for place in range(4)]
        begin = time.perf_counter()
        rows = row_groups.read_pieces(source, pieces, COLUMNS)
        next(rows)
        found.append(time.perf_counter() - begin)
        list(rows)
    return statistics.median(found)


def reads(rows: Sequence[int]) -> None:
    """Prints the wait for data in a chunk. `rows` does not matter: a chunk has 64 of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = write_file(folder, 1_024, 256)
        with slow_store(folder / "store") as running:
            storage.write_bytes(f"s3://bucket/{file.path}", (folder / file.path).read_bytes())
            sources = [
                split_files(
                    [f"{at}/{file.path}"],
                    [file.num_bytes],
                    Groups(np.array([file.num_rows]), ROWS_PER_GROUP),
                    LAPA,
                    at,
                )
                for at in (str(folder), "s3://bucket")
            ]
            for source in sources:
                list(row_groups.read_pieces(source, source.groups.locate(0, 64), COLUMNS))  # connects
            figures = []
            for state, forget in (("known", False), ("unknown", True)):
                local, distant = (first_reads(source, forget) for source in sources)
                running.requests.clear()
                first_reads(sources[1], forget)
                requests = len(running.requests) / (12 * 4)
                figures += [
                    Figure(f"first row group from disk, footers {state}", "measured", {64: local * 1e3}, "ms"),
                    Figure(f"first row group from the store, footers {state}", "measured", {64: distant * 1e3}, "ms"),
                    Figure(f"requests for each row group, footers {state}", "measured", {64: requests}),
                ]
    print_table(f"Reads of a chunk; the store answers each request {DELAY_SECONDS * 1e3:.0f} ms later", [64], figures)


# Rates: whole streams, decoded by tasks, from disk and from a store that answers later.


def images_per_second(source: SplitFiles, seed: int) -> float:
    """The speed of a stream after its first batches."""
    stream = TrainStream(
        source=source, augmentation=Augmentation(), size=CANVAS, batch_size=16, seed=seed, rank=0, world_size=1
    )
    with closing(stream.batches(0, 1, TASKS)) as batches:
        for _ in islice(batches, 30):
            pass
        begin = time.perf_counter()
        number = sum(1 for _ in islice(batches, 150))
    return number * 16 / (time.perf_counter() - begin)


def rates(rows: Sequence[int]) -> None:
    """Prints the speed of a stream of 1024-pixel JPEGs. `rows` does not matter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_jpegs(folder)
        with slow_store(folder / "store"):
            for file in files:
                storage.write_bytes(f"s3://bucket/{file.path}", (folder / file.path).read_bytes())
            counts = np.array([file.num_rows for file in files])
            sources = [
                split_files(
                    [f"{at}/{file.path}" for file in files],
                    [file.num_bytes for file in files],
                    Groups(counts, ROWS_PER_GROUP),
                    LAPA,
                    at,
                )
                for at in (str(folder), "s3://bucket")
            ]
            with ray_session(Needs(cpus=TASKS)):
                found = [[images_per_second(source, seed) for source in sources] for seed in range(3)]
    local, distant = (statistics.median(speeds) for speeds in zip(*found, strict=True))
    ratio = statistics.median(distant / local for local, distant in found)
    count = int(counts.sum())
    figures = [
        Figure("images/s from disk", "measured", {count: local}),
        Figure("images/s from the store", "measured", {count: distant}),
        Figure("ratio, the median of three pairs", "measured", {count: ratio}),
    ]
    title = f"Streams of 1024-pixel JPEGs; the store answers each request {DELAY_SECONDS * 1e3:.0f} ms later"
    print_table(title, [count], figures)


def write_jpegs(folder: Path) -> list[dataset.DataFile]:
    """Files of the JPEGs that `bench` measures with, 350 kB each."""
    pairs = [bench_stream.make_pair(index) for index in range(16)]
    found = []
    for number in range(24):
        rows = [
            Row(id=f"{number}-{place}", image=image, label=label, height=1024, width=1024, meta="{}")
            for place, (image, label) in enumerate(pairs * 8)
        ]
        file = dataset.write_file(str(folder), f"train/part-{number:05d}", rows)
        assert file is not None
        found.append(file)
    return found


# Manifests: what each command reads first.


def measure_manifest(rows_per_file: int, num_rows: int) -> dict[str, float]:
    """The size of a manifest of a label version, and the time and memory to read it, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        digest = "0" * 64
        images = FileRef(path="train/part-00000-000000000000.parquet", num_bytes=1, sha256=digest, base=0)
        files = tuple(
            dataset.DataFile(
                path=f"train/part-{number:05d}-000000000000.parquet",
                num_rows=rows_per_file,
                num_bytes=1,
                sha256=digest,
                images=images,
            )
            for number in range(max(1, num_rows // rows_per_file))
        )
        base = Manifest(label_taxonomy=LAPA, splits={}, digest=digest)
        made = base.model_copy(
            update={"splits": {"train": files}, "bases": (Base(uri=f"{folder}/base", digest=digest),)}
        )
        for uri, manifest in ((folder, made), (f"{folder}/base", base)):
            storage.write_json(dataset.manifest_uri(uri), manifest.model_dump(mode="json"))
        del files, made
        before, begin = own_memory(), time.perf_counter()
        manifest = dataset.read_manifest(folder)
        seconds, memory = time.perf_counter() - begin, own_memory() - before
        assert len(manifest.splits["train"]) == max(1, num_rows // rows_per_file)
        size = Path(folder, dataset.MANIFEST).stat().st_size
        return {"size": size / 1e6, "seconds": seconds, "memory": max(0, memory) / 1e6}


def manifests(rows: Sequence[int]) -> None:
    for rows_per_file in ROWS_PER_FILE:
        found = {count: in_own_process(measure_manifest, rows_per_file, count) for count in rows}
        names = [("size", "size", "MB"), ("time to read", "seconds", "s"), ("memory of a reader", "memory", "MB")]
        figures = [
            Figure(title, "simulated", {count: values[key] for count, values in found.items()}, unit)
            for title, key, unit in names
        ]
        print_table(f"Manifests of a label version, {rows_per_file:,} rows in a file", rows, figures)


SECTIONS: Mapping[str, Callable[[Sequence[int]], None]] = {
    "streams": streams,
    "reads": reads,
    "rates": rates,
    "manifests": manifests,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--rows", nargs="+", type=int, default=[10**4, 10**5, 10**6, 10**7, 10**8])
    arguments = parser.parse_args()
    for section in arguments.sections:
        SECTIONS[section](arguments.rows)


if __name__ == "__main__":
    # Other processes find the functions and classes by the name of the module, not as `__main__`.
    from tests.benchmarks import scale

    scale.main()
