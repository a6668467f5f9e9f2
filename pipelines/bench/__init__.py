"""`bench`: what this machine makes of the project, each number as a ratio within one run.

Each measurement is a module of this package that can be run by itself, in a process of its own, so that none disturbs
another: its last line on standard output is a JSON object with the `ratio` and what it was made of.
"""

import json
import logging
import os
import subprocess
import sys
from typing import Any, NamedTuple

from pipelines import storage
from pipelines.config.commands import BenchConfig
from pipelines.errors import RunFailedError
from pipelines.run import ray_settings

logger = logging.getLogger(__name__)


class Measurement(NamedTuple):
    """What a ratio is of, and what it should be on 2 cores."""

    text: str
    goal: float | None = None
    higher_is_better: bool = False

    def verdict(self, ratio: float) -> str:
        """The goal, and whether the ratio reaches it."""
        if self.goal is None:
            return ""
        is_reached = ratio >= self.goal if self.higher_is_better else ratio <= self.goal
        return f"{'>=' if self.higher_is_better else '<='} {self.goal:.2f} {'yes' if is_reached else 'NO'}"


MEASUREMENTS = {
    "stream": Measurement("images/s of the stream / of a plain DataLoader of as many processes", 1.7, True),
    "loss": Measurement("time of the loss / of a straightforward one", 0.35),
    "step": Measurement("time of a training step / of its bare network, cpu-small", 1.15),
    "relabel": Measurement("images/s of relabel / what its parts allow", 0.92, True),
    "cycle": Measurement("time to end a cycle, but for its pass over the images / of an epoch of 320 images"),
    "start": Measurement("time from the command to its first batch / of an empty Ray Train run"),
}


def run(config: BenchConfig) -> dict[str, Any]:
    """`{"out", "<measurement>": {"ratio", "goal", ...}, ...}`; written to `out` as well."""
    result: dict[str, Any] = {"cores": os.cpu_count()}
    for name in config.measurements:
        logger.info("measuring: %s", MEASUREMENTS[name].text)
        result[name] = {"goal": MEASUREMENTS[name].goal} | measured(name)
    storage.write_json(config.out, result)
    return {"out": config.out, **result}


def measured(name: str) -> dict[str, Any]:
    """The last line of a measurement. Raises RunFailedError with what it said where it failed."""
    environment = {key: value for key, value in os.environ.items() if key != ray_settings.ADDRESS}
    command = [sys.executable, "-m", f"{__name__}.{name}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailedError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-500:]}")
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


def summary(result: dict[str, Any]) -> str:
    lines = [f"{'':8} {'ratio':>6}  {'goal':11}"]
    for name, measurement in MEASUREMENTS.items():
        if name in result:
            ratio = result[name]["ratio"]
            lines.append(f"{name:8} {ratio:6.2f}  {measurement.verdict(ratio):11}  {measurement.text}")
    return "\n".join([*lines, f"written to {result['out']}"])
