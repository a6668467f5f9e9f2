"""Reads outputs of release 0.1, which had other files in place of `claim.json` and other names of some options."""

from collections.abc import Mapping
from typing import Any

from pipelines import storage
from pipelines.config import plain_yaml
from pipelines.errors import OutputTakenError, UserError

_RENAMED: Mapping[str, str] = {
    "leave_out": "held_out_fold",
    "input.scale": "augmentation.scale",
    "input.rotation": "augmentation.rotation",
    "input.rotation_probability": "augmentation.rotation_probability",
    "input.flip_probability": "augmentation.flip_probability",
    "optimizer.accumulate": "optimizer.accumulation_steps",
    "csr.warm": "csr.initial_run",
    "distill.hard_weight": "distill.label_weight",
    "workers.data_tasks": "workers.decode_tasks",
    "loss.binary": "loss.binary_edge",
    "loss.category": "loss.category_edge",
    "loss.binary_attention": "loss.binary_edge_attention",
    "loss.category_attention": "loss.category_edge_attention",
    "search.binary": "search.binary_edge",
    "search.category": "search.category_edge",
    "search.binary_attention": "search.binary_edge_attention",
    "search.category_attention": "search.category_edge_attention",
}
"""Renamed options of `train` and `tune`: dotted name in release 0.1 to present dotted name."""


def claim_values(out: str) -> dict[str, Any] | None:
    """The values of a claim for an output of release 0.1; None if `out` holds no such output.

    Raises OutputTakenError if the output is damaged or a data set. This release reads data sets of release 0.1, but
    does not continue them.
    """
    config, result = storage.join(out, "config.yaml"), storage.join(out, "result.json")
    if storage.exists(storage.join(out, "unfinished.json")):
        raise OutputTakenError(
            f"{out} holds an unfinished data set of release 0.1 (format version 1), which this release (format "
            "version 2) does not continue; choose another --out"
        )
    if storage.exists(storage.join(out, "dataset.json")):
        raise OutputTakenError(
            f"{out} already holds a data set without claim.json, as release 0.1 wrote it; choose another --out"
        )
    if storage.exists(config):
        values = run_config(config)
        command = "tune" if "num_trials" in values else "train"
        inputs = {"data": str(_json(storage.join(out, "environment.json")).get("data_digest"))}
        return {"format_version": 1, "command": command, "config": values, "inputs": inputs}
    if storage.exists(result):
        return {"format_version": 1, "command": str(_json(result).get("command")), "config": {}}
    return None


def _json(uri: str) -> dict[str, Any]:
    try:
        return storage.find_json(uri) or {}
    except UserError as error:
        raise OutputTakenError(f"{error}; choose another --out") from error


def run_config(uri: str) -> dict[str, Any]:
    """The values of a `config.yaml` of release 0.1, without `out`, under their present names.

    Raises OutputTakenError if the file is damaged.
    """
    try:
        leaves = dict(_leaves(plain_yaml.load(storage.read_bytes(uri).decode())))
        share = leaves.pop("csr.share", "none")
        if "num_trials" in leaves:
            leaves["soup"] = share == "soup"
        renamed: dict[str, Any] = {}
        for name, value in leaves.items():
            *sections, leaf = _RENAMED.get(name, name).split(".")
            target = renamed
            for section in sections:
                target = target.setdefault(section, {})
            target[leaf] = value
    except (AttributeError, TypeError, ValueError) as error:
        raise OutputTakenError(f"{uri} is damaged; choose another --out") from error
    renamed.pop("out", None)
    return renamed


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, value) of every value in nested mappings."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        found += _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return found
