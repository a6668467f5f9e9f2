"""Time and memory of the driver of `ingest` before and after packing, by the number of names in the source.

python -m tests.benchmarks.listing                   10,000 to 10,000,000 names: about 12 minutes on two cores
python -m tests.benchmarks.listing --names 1000000   one size

Simulated: the storage that lists the names (pairs of `images/<n>.jpg` and `labels/<n>.png`, made up in pages, without
requests), the mean size of an image, and the facts about packed rows (random image hashes, some of them equal). Real:
the tables of names on a local disk, the Ray tasks that join them, splits, shards, and the checks of the whole set.
Nothing is packed. Each size runs in a process of its own; the memory of the tasks is not part of the peak.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from pipelines import storage
from pipelines.config.commands import IngestConfig
from pipelines.ingest import ingest, names, pack
from pipelines.ingest.listing import list_source
from pipelines.ingest.set_checks import SetChecks
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
SOURCE, PAGE, MEAN_BYTES = "s3://made-up/faces", 1000, 60_000


def made_up_pages(num_names: int) -> Iterator[list[str]]:
    """Yields the pages of a listing."""
    for folder, suffix in (("images", "jpg"), ("labels", "png")):
        for start in range(0, num_names // 2, PAGE):
            stop = min(start + PAGE, num_names // 2)
            yield [f"{SOURCE}/{folder}/{number:09d}.{suffix}" for number in range(start, stop)]


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(num_names: int) -> dict[str, Any]:
    """Seconds of each step, CPU seconds of this process in it, and its peak memory after it."""
    config = IngestConfig(format="pairs", taxonomy="celebamask_hq", source=(SOURCE,), out="/out")
    found: dict[str, Any] = {"names": num_names, "start_mb": peak_mb()}
    begin, cpu = time.perf_counter(), time.process_time()

    def done(step: str) -> None:
        nonlocal begin, cpu
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
        found[step] = {"s": round(seconds, 1), "driver_cpu_s": round(cpu_seconds, 1), "peak_mb": peak_mb()}
        print(step, json.dumps(found[step]), file=sys.stderr, flush=True)
        begin, cpu = time.perf_counter(), time.process_time()

    with tempfile.TemporaryDirectory() as folder, ray_session(Needs(cpus=1)):
        done("ray")
        original = names.write_names

        def timed(*given: Any) -> names.Names:
            written = original(*given)
            done("names")
            return written

        with (
            patch("pipelines.ingest.listing.write_names", timed),
            patch.object(names, "list_uris", lambda _: []),
            patch.object(storage, "list_pages", lambda _: made_up_pages(num_names)),
        ):
            listing = list_source(config, folder, ingest.in_tasks)
        done("join")
        rows = listing.samples.num_rows()
        assert sum(rows.values()) == num_names // 2 and not listing.num_rejected
        shards = pack.make_shards(rows, MEAN_BYTES)
        first = listing.samples.read("train", 0, 100)
        assert len({sample.id for sample in first}) == 100
        done("splits")
        found["tables_mb"] = sum(path.stat().st_size for path in Path(folder).iterdir()) >> 20
    checks, random = SetChecks(None, None), np.random.default_rng(0)
    for shard in shards:
        size = shard.work[1] - shard.work[0]
        facts = {"num_rows": size, "num_mirrored": 0, "agreements": {}, "hashes": random.integers(0, 2**62, size)}
        facts["hashes"][0] = 7
        checks.add(shard.split, shard.name, facts)
    remarks = list(checks.remarks(lambda: iter(()), lambda _: {"ids": ["a"]}))
    assert len(remarks) >= len(shards) - 1
    done("checks")
    return found | {"shards": len(shards), "peak_mb": peak_mb()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int)
    arguments = parser.parse_args()
    if arguments.names is not None:
        print(json.dumps(measure(arguments.names)))
        return
    for size in SIZES:
        command = [sys.executable, "-m", "tests.benchmarks.listing", "--names", str(size)]
        print(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
