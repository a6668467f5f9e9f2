"""A run's directory on storage: whose it is, what it was started with, and what has been measured so far."""

import json
import logging
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from tensorboardX import SummaryWriter

from pipelines import storage
from pipelines.config import plain_yaml
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.errors import OutputTakenError, UserError
from pipelines.run import result_file

logger = logging.getLogger(__name__)
CONFIG, ENVIRONMENT, METRICS = "config.yaml", "environment.json", "metrics.jsonl"
EVENTS = "tensorboard/events.out.tfevents.0.run"
EpochMetrics = Mapping[str, float]
"""What was measured in one epoch."""
_HISTORY = TypeAdapter(list[dict[str, int | float]], config=ConfigDict(strict=True))
_REQUIRED_KEYS = {"epoch", "time", "val_mean_f1"}
"""Of every epoch, whatever else."""


def holds_this_run(config: TrainConfig, data_digest: str) -> bool:
    """Whether `config.out` is this run's already; False where it is free.

    Raises OutputTakenError where it holds another run, or other files, or the data set has changed since.
    """
    uri = storage.join(config.out, CONFIG)
    if not storage.exists(uri):
        if storage.is_empty(config.out):
            return False
        raise OutputTakenError(f"{config.out} is not empty and holds no run; choose another --out")
    try:
        earlier = dict(_flat(plain_yaml.load(storage.read_bytes(uri).decode())))
    except (ValueError, AttributeError) as error:
        raise OutputTakenError(f"{uri} is damaged; choose another --out") from error
    _compare(config, earlier)
    environment = storage.join(config.out, ENVIRONMENT)
    if storage.exists(environment) and storage.read_json(environment).get("data_digest") != data_digest:
        raise OutputTakenError(f"{config.out} was started on other data than {config.data} holds now")
    return True


def finished_result(config: TrainConfig, data_digest: str, command: str) -> dict[str, Any] | None:
    """The result of this very run, where an earlier attempt has finished it. Raises what `belongs` does."""
    result = result_file.finished_result(config.out, command) if holds_this_run(config, data_digest) else None
    if result is not None:
        logger.info("%s is finished; nothing to do", config.out)
    return result


def _compare(config: TrainConfig, earlier: Mapping[str, Any]) -> None:
    """`workers` and `cluster` may differ: a run may continue on another one."""
    now = dict(_flat(config.model_dump(mode="json")))
    changed = {name for name in now.keys() | earlier.keys() if earlier.get(name) != now.get(name)}
    for name in sorted(changed):
        if not name.startswith(("workers.", "cluster.")):
            raise OutputTakenError(
                f"{config.out} holds a run with {name} = {earlier.get(name)}, not {now.get(name)}; "
                "choose another --out, or repeat the command as it was"
            )


def read_config(out: str) -> TrainConfig | None:
    """The configuration of the run at `out`, a TuneConfig of a sweep, or None.

    Raises UserError where it cannot be read.
    """
    uri = storage.join(out, CONFIG)
    if not storage.exists(uri):
        return None
    try:
        values = plain_yaml.load(storage.read_bytes(uri).decode())
        return (TuneConfig if "num_trials" in values else TrainConfig).model_validate(values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{uri} is damaged: {str(error).splitlines()[0]}") from error


def claim(config: TrainConfig, data_digest: str) -> bool:
    """Makes `config.out` this run's, or finds that it is; True where an earlier start is continued."""
    resumed = holds_this_run(config, data_digest)
    if not resumed:
        values = plain_yaml.dump(config.model_dump(mode="json"))
        storage.write_bytes(storage.join(config.out, CONFIG), values.encode())
    environment = storage.join(config.out, ENVIRONMENT)
    if not storage.exists(environment):  # a kill may have come between the two
        storage.write_json(environment, software() | {"data_digest": data_digest})
    return resumed


def software() -> dict[str, Any]:
    """Versions of what decides results."""
    packages = ("ray", "torch", "numpy", "opencv-python-headless", "pyarrow")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
    }


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def write_metrics(out: str, history: Sequence[EpochMetrics]) -> None:
    """Rewrites `metrics.jsonl` and the TensorBoard events from all epochs so far.

    Object storage cannot append; written whole, an epoch that is done twice after a crash appears once.
    """
    lines = "".join(json.dumps(record) + "\n" for record in history)
    storage.write_bytes(storage.join(out, METRICS), lines.encode())
    storage.write_bytes(storage.join(out, EVENTS), _events(history))


def read_metrics(out: str) -> list[EpochMetrics]:
    """What `write_metrics` wrote; empty before the first epoch is done. Raises UserError where it is damaged."""
    uri = storage.join(out, METRICS)
    if not storage.exists(uri):
        return []
    try:
        return as_history([json.loads(line) for line in storage.read_bytes(uri).splitlines()])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{uri} is damaged: {str(error).splitlines()[0]}") from error


def as_history(values: object) -> list[EpochMetrics]:
    """The records that `values` hold. Raises ValueError where they hold something else."""
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
