"""A run's directory on storage: whose it is, what it was started with, and what has been measured so far."""

import json
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from tensorboardX import SummaryWriter

from pipelines import storage
from pipelines.config import TrainConfig
from pipelines.errors import OutputTakenError

CONFIG, ENVIRONMENT, METRICS = "config.yaml", "environment.json", "metrics.jsonl"
EVENTS = "tensorboard/events.out.tfevents.0.run"
Record = Mapping[str, float]
"""What was measured in one epoch."""


def claim(config: TrainConfig, data_digest: str) -> bool:
    """Makes `config.out` this run's, or finds that it is already; True where an earlier start is continued.

    Raises OutputTakenError where the directory holds another run, or other files, or the data set has changed.
    """
    uri = storage.join(config.out, CONFIG)
    values = config.model_dump(mode="json")
    if storage.exists(uri):
        _compare(config.out, yaml.safe_load(storage.read_bytes(uri)), values, data_digest)
        return True
    if not storage.is_empty(config.out):
        raise OutputTakenError(f"{config.out} is not empty and holds no run; choose another --out")
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in ("ray", "torch", "numpy", "opencv-python-headless", "pyarrow")},
        "data_digest": data_digest,
    }
    storage.write_json(storage.join(config.out, ENVIRONMENT), environment)
    storage.write_bytes(uri, yaml.safe_dump(values, sort_keys=False).encode())
    return False


def _compare(out: str, earlier: Any, values: dict[str, Any], data_digest: str) -> None:
    """`workers` may differ: a run may continue on another cluster."""
    before, now = dict(_flat(earlier)), dict(_flat(values))
    changed = [name for name in now.keys() | before.keys() if before.get(name) != now.get(name)]
    changed = sorted(name for name in changed if not name.startswith("workers."))
    if changed:
        name = changed[0]
        raise OutputTakenError(
            f"{out} holds a run with {name} = {before.get(name)}, not {now.get(name)}; "
            "choose another --out, or repeat the command as it was"
        )
    environment = storage.read_json(storage.join(out, ENVIRONMENT))
    if environment.get("data_digest") != data_digest:
        raise OutputTakenError(f"{out} was started on other data than {values['data']} holds now; choose another --out")


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def write_metrics(out: str, history: Sequence[Record]) -> None:
    """Rewrites `metrics.jsonl` and the TensorBoard events from all epochs so far.

    Object storage cannot append; written whole, an epoch that is done twice after a crash appears once.
    """
    lines = "".join(json.dumps(record) + "\n" for record in history)
    storage.write_bytes(storage.join(out, METRICS), lines.encode())
    storage.write_bytes(storage.join(out, EVENTS), _events(history))


def _events(history: Sequence[Record]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for record in history:
                for name in record.keys() - {"epoch", "time"}:
                    writer.add_scalar(name, record[name], int(record["epoch"]), walltime=record["time"])
        (file,) = Path(folder).iterdir()
        return file.read_bytes()
