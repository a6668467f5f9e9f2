"""Time that the end of a cycle of self-regulation takes, without its pass over the images, against an epoch.

python -m pipelines.bench.cycle        about two minutes on 2 cores

At the end of a cycle the students are averaged, the BatchNorm statistics are re-estimated in a pass over the training
images, the ensemble is validated, and the ledger is written. The method requires the pass, so it is not counted.
"""

import json
import statistics
import tempfile
from collections.abc import Sequence
from itertools import pairwise

from pipelines.bench.start import command
from pipelines.run import phases, run_directory
from pipelines.run.phases import Phase

TRAIN = [
    "--preset", "cpu-small", "--input.size", "64", "--schedule.epochs", "2", "--schedule.warmup-epochs", "1",
    "--csr.num-cycles", "3", "--csr.cycle-epochs", "1",
]  # fmt: skip


def cycle_ends(found: Sequence[Phase]) -> list[tuple[float, float]]:
    """Seconds of each end of a cycle, and seconds of its pass over the images."""
    ends, begin, images = [], 0.0, 0.0
    for phase, following in pairwise(found):
        seconds = following.began - phase.began
        if phase.kind == "averaging":
            begin = phase.began
        elif phase.kind == "re-estimating BatchNorm":
            images = seconds
        elif phase.kind == "validating":
            ends.append((following.began - begin, images))
    return ends


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command("synth", "--num-images", "400", "--image-size", "64", "--out", f"{folder}/data")
        command("train", "--data", f"{folder}/data", "--out", f"{folder}/run", *TRAIN)
        records = run_directory.read_metrics(f"{folder}/run")
        ends = cycle_ends(phases.read(f"{folder}/run"))
    assert ends
    rest = statistics.median(whole - images for whole, images in ends)
    epoch = statistics.median(record["train_seconds"] for record in records)
    print(json.dumps({"ratio": rest / epoch, "rest": rest, "epoch": epoch, "all": ends}))


if __name__ == "__main__":
    main()
