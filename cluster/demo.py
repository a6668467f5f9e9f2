"""`make demo`: the main job, from raw faces to a scored model, sent to a Ray head as a user would send it.

python -m cluster.demo FOLDER [--num-images N] [--epochs N]
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.head import Head, ray_head
from pipelines import evaluate

logger = logging.getLogger(__name__)
PROJECT = Path(__file__).parent.parent


def submit(head: Head, command: Sequence[str]) -> None:
    """Sends one command as a Ray job and follows its output. Raises CalledProcessError where the job fails."""
    logger.info("ray job submit -- python ray_job.py %s", " ".join(command))
    subprocess.run(
        ["ray", "job", "submit", "--working-dir", ".", "--", "python", "ray_job.py", *command],
        cwd=PROJECT,
        env=os.environ | dict(head.environment),
        check=True,
    )


def main() -> int:
    """Runs the demo; 0 where every job succeeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-images", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folder: Path = arguments.folder.absolute()
    raw, data, run = (str(folder / name) for name in ("raw", "faces", "run"))
    begin = time.monotonic()
    with ray_head(folder / "ray", num_cpus=max(4, os.cpu_count() or 1)) as head:
        submit(head, ["synth", "--layout", "pairs", "--num-images", str(arguments.num_images), "--out", raw])
        submit(head, ["ingest", "--format", "pairs", "--taxonomy", "celebamask_hq", "--source", raw, "--out", data])
        submit(head, ["train", "--preset", "cpu-small", "--data", data, "--out", run, *schedule(arguments.epochs)])
        submit(head, ["evaluate", "--model", run, "--data", data])
    scores = Path(run) / "evaluation" / "faces-test"
    result = json.loads((scores / "result.json").read_text())["result"]
    sys.stdout.write(
        f"\n{evaluate.summary(result)}\n"
        f"raw faces:  {raw}\ndata set:   {data}\nrun:        {run}\nmodel:      {run}/model\n"
        f"overlays:   {scores}/overlays\nthe whole demo took {(time.monotonic() - begin) / 60:.1f} minutes\n"
    )
    return 0


def schedule(epochs: int) -> list[str]:
    return ["--schedule.epochs", str(epochs), "--schedule.warmup-epochs", "1"]


if __name__ == "__main__":
    sys.exit(main())
