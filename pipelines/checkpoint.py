"""Training checkpoints as safetensors and JSON: reading one never unpickles.

File names are fixed: two attempts that write the same checkpoint write the same files.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

NETWORK, OPTIMIZER, PROGRESS = "network.safetensors", "optimizer.safetensors", "progress.json"


def save(folder: Path, network: nn.Module, optimizer: Optimizer, progress: Mapping[str, Any]) -> None:
    """Writes weights, optimiser state and `progress` (JSON-able) into an existing local folder."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / NETWORK)
    tensors = {
        f"{index}.{name}": torch.as_tensor(value).contiguous()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }
    save_file(tensors, folder / OPTIMIZER)
    (folder / PROGRESS).write_text(json.dumps(progress))


def load(folder: Path, network: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Restores both in place, on the device of the network's parameters; returns the progress."""
    network.load_state_dict(load_file(folder / NETWORK))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(folder / OPTIMIZER).items():
        index, _, name = key.partition(".")
        states.setdefault(int(index), {})[name] = _laid_out_like(parameters[int(index)], value)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    progress: dict[str, Any] = json.loads((folder / PROGRESS).read_text())
    return progress


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Files hold plain tensors; a fused optimiser pairs numbers by their place in memory, so channels_last matters."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def load_network(folder: Path) -> dict[str, Tensor]:
    """The weights of the training network alone."""
    return load_file(folder / NETWORK)
