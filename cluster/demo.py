"""`make demo`: runs the whole pipeline on the local stack. Every command is a Ray job and works on s3:// URIs.

python -m cluster.demo FOLDER [--num-images N] [--epochs N]

Steps: raw faces, 20 % of whose training labels are corrupted -> data set -> training with two cycles of
self-regulation -> scores -> a new version with corrected labels -> report page. The page, the scores and the suspect
labels are copied to FOLDER.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.local import BUCKET, Stack
from cluster.object_store import client
from pipelines.inference import evaluate

logger = logging.getLogger(__name__)
PROJECT = Path(__file__).parent.parent
RAW, DATA, RUN, BETTER = (f"s3://{BUCKET}/demo/{name}" for name in ("raw", "faces", "run", "faces-2"))
PAGE = f"s3://{BUCKET}/demo/report.html"
SCORES = f"{RUN}/evaluation/test"


def submit(environment: Mapping[str, str], command: Sequence[str]) -> None:
    """Submits one command as a Ray job and prints its output. Raises CalledProcessError if the job fails."""
    logger.info("ray job submit -- python ray_job.py %s", " ".join(command))
    ray = str(Path(sys.executable).parent / "ray")
    subprocess.run(
        [ray, "job", "submit", "--working-dir", ".", "--", "python", "ray_job.py", *command],
        cwd=PROJECT,
        env=os.environ | environment,
        check=True,
    )


def circle(num_images: int, epochs: int) -> list[list[str]]:
    """The arguments of the demo's commands, in order."""
    return [
        ["synth", "--layout", "pairs", "--num-images", str(num_images), "--label-noise", "0.2", "--out", RAW],
        ["ingest", "--format", "pairs", "--taxonomy", "celebamask_hq", "--source", RAW, "--out", DATA],
        ["train", "--preset", "cpu-small", "--data", DATA, "--out", RUN, *schedule(epochs), *CYCLES],
        ["evaluate", "--model", RUN, "--data", DATA, "--out", SCORES],
        ["relabel", "--model", RUN, "--data", DATA, "--out", BETTER, "--suspects", "20"],
        ["report", "--run", RUN, "--out", PAGE],
    ]


CYCLES = ["--csr.num-cycles", "2", "--csr.cycle-epochs", "1"]


def schedule(epochs: int) -> list[str]:
    return ["--schedule.epochs", str(epochs), "--schedule.warmup-epochs", "1"]


def fetch(environment: Mapping[str, str], names: Mapping[str, str], folder: Path) -> None:
    """Copies s3:// files and folders to a local folder; `names` maps each URI to its local name."""
    bucket = client(environment)
    for uri, name in names.items():
        bucket.get(uri.removeprefix("s3://"), str(folder / name), recursive=True)


def main() -> int:
    """Runs the demo. Returns 0; a failed job raises CalledProcessError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-images", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folder: Path = arguments.folder.absolute()
    begin = time.monotonic()
    stack = Stack(folder / "stack")
    stack.up()
    try:
        for command in circle(arguments.num_images, arguments.epochs):
            submit(stack.environment, command)
        names = {PAGE: "report.html", f"{SCORES}/": "scores", f"{BETTER}/suspects/": "suspects"}
        fetch(stack.environment, names, folder)
    finally:
        stack.down()
    result = json.loads((folder / "scores" / "result.json").read_text())["result"]
    sys.stdout.write(
        f"\n{evaluate.summary(result)}\n"
        f"report page:         {folder}/report.html\nscores and overlays: {folder}/scores\n"
        f"suspect labels:      {folder}/suspects/index.html\n"
        f"raw faces, data set, run and new version: {RAW}, {DATA}, {RUN}, {BETTER}\n"
        f"to serve them again, run `python -m cluster.local up --folder {arguments.folder}/stack`\n"
        f"the whole demo took {(time.monotonic() - begin) / 60:.1f} minutes\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
