"""Time that the end of a cycle of self-regulation takes, without its pass over the images, against an epoch.

python -m pipelines.bench.cycle        about two minutes on 2 cores

At the end of a cycle the students are averaged, the BatchNorm statistics are re-estimated in a pass over the training
images, the ensemble is validated, and the ledger is written. The method requires the pass, so it is not counted.
"""

import json
import re
import statistics
import tempfile

from pipelines.bench.start import command
from pipelines.run import run_directory

TRAIN = [
    "--preset", "cpu-small", "--input.size", "64", "--schedule.epochs", "2", "--schedule.warmup-epochs", "1",
    "--csr.num-cycles", "3", "--csr.cycle-epochs", "1",
]  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command("synth", "--num-images", "400", "--image-size", "64", "--out", f"{folder}/data")
        said = command("train", "--data", f"{folder}/data", "--out", f"{folder}/run", *TRAIN)
        records = run_directory.read_metrics(f"{folder}/run")
    found = re.findall(r"it took ([\d.]+) s, of which ([\d.]+) s", said)
    ends = [(float(whole), float(images)) for whole, images in found]
    assert ends, said
    rest = statistics.median(whole - images for whole, images in ends)
    epoch = statistics.median(record["train_seconds"] for record in records)
    print(json.dumps({"ratio": rest / epoch, "rest": rest, "epoch": epoch, "all": ends}))


if __name__ == "__main__":
    main()
