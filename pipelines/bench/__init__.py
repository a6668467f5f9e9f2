"""`bench` measures the project's speed on this machine, each time as a ratio to a baseline of the same run.

Each measurement is a module of this package. It runs in a process of its own, so that no measurement disturbs another.
Its last line on standard output is a JSON object with the `ratio` and the numbers behind it.
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
    """A ratio, and its goal on 2 cores."""

    text: str
    """Numerator and denominator of the ratio, in words."""
    goal: float | None = None
    """Worst accepted ratio; None: the ratio is only reported."""
    higher_is_better: bool = False

    def verdict(self, ratio: float) -> str:
        """The goal, and "yes" or "NO" for whether the ratio reaches it; empty if there is no goal."""
        if self.goal is None:
            return ""
        is_reached = ratio >= self.goal if self.higher_is_better else ratio <= self.goal
        return f"{'>=' if self.higher_is_better else '<='} {self.goal:.2f} {'yes' if is_reached else 'NO'}"


MEASUREMENTS = {
    "stream": Measurement("images/s of the training stream / of a DataLoader with as many processes", 1.7, True),
    "loss": Measurement("time of the loss / of a straightforward implementation", 0.35),
    "step": Measurement("time of a training step / of its forward and backward pass alone, cpu-small", 1.15),
    "relabel": Measurement("images/s of relabel / of its parts alone", 0.92, True),
    "cycle": Measurement("time to end a cycle, without its pass over the images / of an epoch of 320 images"),
    "start": Measurement("time from the command to its first batch / of an empty Ray Train run"),
}


def run(config: BenchConfig) -> dict[str, Any]:
    """Runs the measurements and returns `{"out", "<measurement>": {"ratio", "goal", ...}, ...}`.

    The result is also written to `config.out`. Raises RunFailedError if a measurement fails.
    """
    result: dict[str, Any] = {"cores": os.cpu_count()}
    for name in config.measurements:
        logger.info("measuring: %s", MEASUREMENTS[name].text)
        result[name] = {"goal": MEASUREMENTS[name].goal} | measured(name)
    storage.write_json(config.out, result)
    return {"out": config.out, **result}


def measured(name: str) -> dict[str, Any]:
    """Runs one measurement and returns the JSON of its last line.

    Raises RunFailedError, with the end of its standard error, if it fails.
    """
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
