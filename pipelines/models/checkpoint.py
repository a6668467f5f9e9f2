"""Saves and loads training checkpoints as safetensors and JSON; loading never unpickles.

File names are fixed, so two attempts that write the same checkpoint write the same files.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from pipelines.errors import UserError
from pipelines.run import run_directory
from pipelines.run.run_directory import EpochMetrics

NETWORK, OPTIMIZER, HISTORY_FILE = "network.safetensors", "optimizer.safetensors", "progress.json"
FORMAT_VERSION = 2
"""Version of `progress.json`. Release 0.1 wrote no version; such a file counts as version 1."""


def save(folder: Path, network: nn.Module, optimizer: Optimizer, history: Sequence[EpochMetrics]) -> None:
    """Writes weights, optimizer state and the metrics of each epoch into an existing local folder."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / NETWORK)
    tensors = {
        f"{index}.{name}": torch.as_tensor(value).contiguous()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }
    save_file(tensors, folder / OPTIMIZER)
    (folder / HISTORY_FILE).write_text(json.dumps({"format_version": FORMAT_VERSION, "history": history}))


def load(folder: Path, network: nn.Module, optimizer: Optimizer) -> list[EpochMetrics]:
    """Restores network and optimizer in place, on the device of the parameters; returns the metrics of each epoch.

    Raises UserError if a file is missing, damaged, of another network, or of an unknown version.
    """
    with _user_errors():
        network.load_state_dict(load_file(folder / NETWORK))
        _restore(optimizer, load_file(folder / OPTIMIZER))
        content = json.loads((folder / HISTORY_FILE).read_bytes())
        history = run_directory.as_history(content["history"])
    if (version := content.get("format_version", 1)) not in (1, FORMAT_VERSION):
        raise UserError(
            f"a checkpoint of the run has format version {version!r}; this release reads 1 and {FORMAT_VERSION}"
        )
    return history


def _restore(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        states.setdefault(int(index), {})[name] = _laid_out_like(parameters[int(index)], value)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Returns the value of a parameter's state in the memory layout of the parameter.

    Files hold contiguous tensors. A fused optimizer pairs the numbers of both by their position in memory, which
    differs if the parameter is in channels_last.
    """
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def load_network(folder: Path) -> dict[str, Tensor]:
    """Loads the weights of the training network alone. Raises UserError if they are missing or damaged."""
    with _user_errors():
        return load_file(folder / NETWORK)


@contextmanager
def _user_errors() -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, RuntimeError, ValueError, LookupError, TypeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UserError(f"a checkpoint of the run is damaged or belongs to another network ({reason[:200]})") from error
