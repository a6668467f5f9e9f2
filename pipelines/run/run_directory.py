"""Reads and writes a run directory: its configuration, its software versions and the metrics of its epochs."""

import json
import logging
import platform
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from tensorboardX import SummaryWriter

from pipelines import storage
from pipelines.config import plain_yaml
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.errors import UserError
from pipelines.run import claims, release_0_1
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.paths import RunPaths

logger = logging.getLogger(__name__)
EpochMetrics = Mapping[str, float]
"""The metrics of one epoch by name."""
_HISTORY = TypeAdapter(list[dict[str, int | float]], config=ConfigDict(strict=True))
_REQUIRED_KEYS = {"epoch", "time", VAL_MEAN_F1}
"""Keys that every epoch record must have."""


def read_config(out: str) -> TrainConfig | None:
    """The configuration of the run at `out`, a TuneConfig if it is a sweep; None if there is no run.

    Raises UserError if it cannot be read.
    """
    if storage.exists(RunPaths(out).claim):
        claim = claims.read_claim(out)
        values = dict(claim.config) if claim is not None and claim.command in ("train", "tune") else None
    else:
        uri = RunPaths(out).config
        values = release_0_1.run_config(uri) if storage.exists(uri) else None
    if values is None:
        return None
    try:
        return (TuneConfig if "num_trials" in values else TrainConfig).model_validate({**values, "out": out})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"the configuration of {out} is damaged or of another release ({name}: {first['msg']})"
        ) from error


def describe(config: TrainConfig, data_digest: str) -> None:
    """Writes `config.yaml`, which `--config` can read, and `environment.json`."""
    values = plain_yaml.dump(config.model_dump(mode="json"))
    storage.write_bytes(RunPaths(config.out).config, values.encode())
    environment = RunPaths(config.out).environment
    if not storage.exists(environment):  # keep that of the first attempt, whose software made the initial weights
        storage.write_json(environment, software() | {"data_digest": data_digest})


def software() -> dict[str, Any]:
    """Versions of the software that can change results."""
    packages = ("ray", "torch", "numpy", "opencv-python-headless", "pyarrow")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
    }


def write_metrics(out: str, history: Sequence[EpochMetrics]) -> None:
    """Rewrites `metrics.jsonl` and the TensorBoard events from all epochs so far.

    Object storage cannot append. Because the files are rewritten, an epoch that is repeated after a crash appears once.
    """
    lines = "".join(json.dumps(record) + "\n" for record in history)
    storage.write_bytes(RunPaths(out).metrics, lines.encode())
    storage.write_bytes(RunPaths(out).events, _events(history))


def read_metrics(out: str) -> list[EpochMetrics]:
    """The epochs that `write_metrics` wrote; empty before the first is done. Raises UserError if they are damaged."""
    uri = RunPaths(out).metrics
    data = storage.find_bytes(uri)
    if data is None:
        return []
    try:
        return as_history([json.loads(line) for line in data.splitlines()])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{uri} is damaged: {str(error).splitlines()[0]}") from error


def as_history(values: object) -> list[EpochMetrics]:
    """The epoch records in `values`, a list. Raises ValueError if `values` is anything else."""
    history = _HISTORY.validate_python(values)
    if missing := [name for record in history for name in _REQUIRED_KEYS - record.keys()]:
        raise ValueError(f"an epoch lacks {missing[0]}")
    return list(history)


def _events(history: Sequence[EpochMetrics]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for record in history:
                for name in record.keys() - {"epoch", "time"}:
                    writer.add_scalar(name, record[name], int(record["epoch"]), walltime=record["time"])
        (file,) = Path(folder).iterdir()
        return file.read_bytes()
