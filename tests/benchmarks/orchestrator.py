"""What the orchestrator costs with a large ledger: 200 trials of 20 cycles each.

python -m tests.benchmarks.orchestrator        about a minute

Writes the ledger below a temporary folder, starts the real actor on it, and prints: seconds to read the ledger, the
median and the slowest answer to `status` in milliseconds, and the actor's memory.
"""

import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import ray

from pipelines.models.weights_reference import WeightsReference
from pipelines.regulation import orchestrator
from pipelines.regulation.ledger import Average, Ensemble, Ledger, LedgerRecord, Student, TeacherChoice, Trial
from pipelines.run.preflight import Needs
from pipelines.run.ray_calls import get_result
from pipelines.run.session import ray_session

TRIALS, CYCLES, ANSWERS = 200, 20, 100


def records(trial: str) -> Iterator[LedgerRecord]:
    """All that a trial leaves in a ledger."""
    weights = WeightsReference(uri=f"s3://bucket/runs/sweep/cycles/{trial}/000-ensemble.safetensors", sha256="0" * 64)
    yield Trial(trial=trial, architecture={"depth": 101, "width": 1.0}, taxonomy="lapa", num_cycles=CYCLES)
    for cycle in range(CYCLES + 1):
        shares = {f"{trial}/{number}": 1 / (cycle + 1) for number in range(cycle + 1)}
        yield Student(trial=trial, cycle=cycle, weights=weights, val_mean_f1=0.5)
        yield Ensemble(trial=trial, cycle=cycle, weights=weights, val_mean_f1=0.5, coefficients=shares)
        if cycle:
            yield Average(trial=trial, cycle=cycle, weights=weights)
            yield TeacherChoice(trial=trial, cycle=cycle, soup=None)


def _megabytes(status: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return round(int(found[1]) / 1000)


def main() -> None:
    with tempfile.TemporaryDirectory() as run, ray_session(Needs(cpus=1)):
        ledger = Ledger(run)
        for number in range(TRIALS):
            for record in records(f"{number:05d}"):
                ledger.write_once(record)
        begin = time.perf_counter()
        with orchestrator.orchestrator_actor(run) as actor:
            get_result(actor.status.remote())
            started = time.perf_counter() - begin
            seconds = []
            for _ in range(ANSWERS):
                begin = time.perf_counter()
                get_result(actor.status.remote())
                seconds.append(time.perf_counter() - begin)
            pid = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
            memory = Path(f"/proc/{pid}/status").read_text()
        result = {
            "start_s": round(started, 1),
            "status_ms": round(1000 * statistics.median(seconds), 1),
            "slowest_ms": round(1000 * max(seconds), 1),
            "resident_mb": _megabytes(memory, "VmRSS"),
            "own_mb": _megabytes(memory, "RssAnon"),
        }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
