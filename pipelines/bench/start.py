"""Seconds from the command to its first training batch, against an empty Ray Train run of one worker.

python -m pipelines.bench.start        about a minute on 2 cores

Both start a local cluster. The empty run is timed until its worker's function begins, which is the earliest moment at
which a program that uses Ray Train can start its work.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.run import phases
from pipelines.run.preflight import Needs
from pipelines.run.ray_train import RunConfig, ScalingConfig, TorchTrainer
from pipelines.run.session import ray_session

COMMAND = Path(__file__).parents[2] / "ray_job.py"
TRAIN = ["--preset", "cpu-smoke", "--schedule.epochs", "3", "--schedule.warmup-epochs", "1"]
ROUNDS = 3


def command(*arguments: str) -> None:
    """Runs a command. Raises RuntimeError, with both of its streams, if it fails."""
    done = subprocess.run(
        [sys.executable, str(COMMAND), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stdout)


def empty_run(begin: float) -> None:
    """Prints the seconds from `begin` (seconds since the epoch) to the begin of the worker's function."""

    def function() -> dict[str, Any]:
        return {"began": time.time()}

    with tempfile.TemporaryDirectory() as folder, ray_session(Needs(cpus=2)):
        trainer = TorchTrainer(
            function,
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(name="bench", storage_path=folder),
        )
        print(trainer.fit().return_value["began"] - begin)  # type: ignore[attr-defined]


def main() -> None:
    if sys.argv[1:]:
        empty_run(float(sys.argv[1]))
        return
    seconds: dict[str, list[float]] = {"train": [], "empty": []}
    with tempfile.TemporaryDirectory() as folder:
        command("synth", "--num-images", "100", "--image-size", "64", "--out", f"{folder}/data")
        for number in range(ROUNDS):
            begin = time.time()
            command("train", "--data", f"{folder}/data", "--out", f"{folder}/run-{number}", *TRAIN)
            first = next(phase for phase in phases.read(f"{folder}/run-{number}") if phase.kind == "training")
            seconds["train"].append(first.began - begin)
            done = subprocess.run(
                [sys.executable, "-m", "pipelines.bench.start", str(time.time())],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
            )  # fmt: skip
            seconds["empty"].append(float(done.stdout.splitlines()[-1]))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(json.dumps({"ratio": medians["train"] / medians["empty"]} | medians | {"all": seconds}))


if __name__ == "__main__":
    main()
