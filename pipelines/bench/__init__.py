"""`bench` measures the project's speed on this machine, each time as a ratio to a baseline of the same run.

Each measurement is a module of this package. It runs in a process of its own, so that no measurement disturbs another.
Its last line on standard output is a JSON object with the `ratio` and the numbers behind it.
"""

import json
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pipelines import storage
from pipelines.config.commands import BenchConfig
from pipelines.errors import RunFailedError, UserError
from pipelines.run import ray_settings

logger = logging.getLogger(__name__)


class Measurement(NamedTuple):
    """A ratio, and its goal on 2 cores."""

    text: str
    """Numerator and denominator of the ratio, in words."""
    bound: str
    """The bound of the ratio, and where it comes from, in words."""
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
    "stream": Measurement(
        "images/s of the training stream / of a DataLoader with as many processes",
        "decoding alone, `floor_ratio`",
        1.7,
        True,
    ),
    "loss": Measurement(
        "time of the loss / of a straightforward implementation", "softmax and sorting at full resolution", 0.35
    ),
    "step": Measurement(
        "time of a training step / of its forward and backward pass alone, cpu-small", "1, the network alone", 1.15
    ),
    "relabel": Measurement("images/s of relabel / of its parts alone", "1, the network, scores and PNGs", 0.92, True),
    "cycle": Measurement(
        "time to end a cycle, without its pass over the images / of an epoch of 320 images", "validating the average"
    ),
    "start": Measurement(
        "time from the command to its first batch / of an empty Ray Train run", "1, the start of Ray and torch"
    ),
}


def run(config: BenchConfig) -> dict[str, Any]:
    """Runs the measurements and returns `{"out", "<measurement>": {"ratio", "goal", "bound", ...}, ...}`.

    The result is also written to `config.out`. With `config.against` a measurement has its earlier ratio as `before`.
    Raises RunFailedError if a measurement fails, and UserError if `config.against` is no result of `bench`.
    """
    earlier = {} if config.against is None else read_result(config.against)
    result: dict[str, Any] = {"cores": os.cpu_count(), "processor": processor()}
    if earlier:
        result["processor_before"] = earlier.get("processor")
    for name in config.measurements:
        measurement = MEASUREMENTS[name]
        logger.info("measuring: %s", measurement.text)
        result[name] = {"goal": measurement.goal, "bound": measurement.bound} | measured(name)
        if name in earlier:
            result[name]["before"] = earlier[name]["ratio"]
    storage.write_json(config.out, result)
    return {"out": config.out, **result}


def read_result(uri: str) -> dict[str, Any]:
    """The result of an earlier `bench`. Raises UserError if the file holds anything else."""
    found = storage.read_json(uri)
    ratios = {name: found[name].get("ratio") for name in MEASUREMENTS if isinstance(found.get(name), dict)}
    if not ratios or not all(isinstance(ratio, int | float) for ratio in ratios.values()):
        raise UserError(f"--against: {uri} holds no result of `bench`; give the file that its --out has written")
    return found


def processor() -> str:
    """The name of this machine's processor, or "unknown"."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or "unknown")


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
    lines = [f"{result.get('processor', 'unknown processor')}, {result['cores']} cores"]
    before = result.get("processor_before")
    if before is not None and before != result.get("processor"):
        lines.append(f"the earlier result is of another processor: {before}")
    lines.append(f"{'':8} {'ratio':>6}  {'goal':11} {'before':>15}")
    for name, measurement in MEASUREMENTS.items():
        if name in result:
            ratio, earlier = result[name]["ratio"], result[name].get("before")
            change = "" if earlier is None else f"{earlier:6.2f} ({100 * (ratio / earlier - 1):+.0f} %)"
            verdict = measurement.verdict(ratio)
            lines.append(
                f"{name:8} {ratio:6.2f}  {verdict:11} {change:>15}  {measurement.text}; bounded by {measurement.bound}"
            )
    return "\n".join([*lines, f"written to {result['out']}"])
