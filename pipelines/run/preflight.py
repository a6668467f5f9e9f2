"""Checks before any work begins: CPUs, GPUs, memory and disks. Each problem is one sentence that says what to do."""

import logging
import math
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import ray
import torch

from pipelines.errors import UserError
from pipelines.run import ray_internals, ray_settings
from pipelines.run.ray_internals import AutoscalerLimits

logger = logging.getLogger(__name__)
_FULL = 0.95
"""Used share of a disk from which on Ray writes no objects to it (Ray's `local_fs_capacity_threshold`)."""


class Needs(NamedTuple):
    """Resources that a command needs at the same time to make progress."""

    cpus: float
    gpus: float = 0
    process_bytes: int = 0
    """Bytes of memory of its largest process; 0 if unknown. Only checked for CPU training: GPU memory is unknown until
    a worker runs there."""
    gpu_option: str = ""
    """Option with which the command would use GPUs; empty if it uses or knows none."""


class Capacity(NamedTuple):
    """Resources of the cluster, including those that its autoscaler may add."""

    cpus: float
    gpus: float
    node_bytes: int
    """Memory of the largest node in bytes; 0 if unknown."""
    autoscales: bool = False
    """True if an autoscaler may add nodes."""


def check(needs: Needs) -> None:
    """Raises UserError with the first shortfall of the connected cluster. Without this check Ray would wait forever."""
    present = capacity()
    for problem in shortfalls(needs, present) + disk_problems():
        raise UserError(problem)
    if (remark := idle_gpus(needs, present)) is not None:
        logger.info(remark)
    if present.autoscales:
        ray_settings.NODES_SECONDS.set_default()


def shortfalls(needs: Needs, present: Capacity) -> list[str]:
    """One sentence for each resource that is needed but not present."""
    found = [
        f"this command needs {needed:g} {name}s at once and the cluster has {there:g}, including those "
        "that its autoscaler may add; ask for fewer workers or decode tasks, or add nodes"
        for name, needed, there in (("CPU", needs.cpus, present.cpus), ("GPU", needs.gpus, present.gpus))
        if there < needed
    ]
    if not needs.gpus and 0 < present.node_bytes < needs.process_bytes:
        found.append(
            f"one training worker needs about {_gib(needs.process_bytes)} and the largest node has "
            f"{_gib(present.node_bytes)}; lower --optimizer.batch-size or --input.size, or add a larger node"
        )
    return found


def idle_gpus(needs: Needs, present: Capacity) -> str | None:
    """A sentence if the command could use GPUs of the cluster and was not told to; None otherwise."""
    if not needs.gpu_option or not present.gpus:
        return None
    return (
        f"the cluster has {present.gpus:g} GPUs and this command uses CPUs only; {needs.gpu_option} true changes that"
    )


def capacity() -> Capacity:
    """The capacity of the connected cluster, including nodes that its autoscaler may add."""
    now = ray.cluster_resources()
    memories = [node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]]
    limits = ray_internals.autoscaler_limits()
    grown = AutoscalerLimits(0, 0, 0) if limits is None else limits
    return Capacity(
        max(now.get("CPU", 0), grown.cpus),
        max(now.get("GPU", 0), grown.gpus),
        int(max([*memories, grown.node_bytes])),
        autoscales=limits is not None,
    )


def local_cpus(needs: Needs) -> int:
    """The CPUs of a local cluster. More of them than cores are harmless: the processes share the cores."""
    return max(os.cpu_count() or 1, math.ceil(needs.cpus))


def local_capacity(needs: Needs) -> Capacity:
    """The capacity of the local cluster that a command with these needs would start."""
    return Capacity(
        local_cpus(needs), torch.cuda.device_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )


def disk_problems() -> list[str]:
    """Problems of two folders of this node: the one with its logs, and the one to which Ray spills objects."""
    if not ray.is_initialized():
        return []
    context = ray.get_runtime_context()
    session = str(Path(context.get_temp_dir()) / context.get_session_name())
    spilled = os.environ.get(ray_settings.SPILL_FOLDER)
    folders = [spilled, session]
    return [problem for folder in folders if folder and (problem := _disk_problem(folder))]


def _disk_problem(folder: str) -> str | None:
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return f"Ray's folder {folder} cannot be used: {error.strerror}"
    if usage.used < _FULL * usage.total:
        return None
    return (
        f"the disk of {folder} is {usage.used / usage.total:.0%} full and Ray spills no objects to a disk that is "
        f"{_FULL:.0%} full; free some space, or start Ray with --temp-dir or --object-spilling-directory on another "
        "disk"
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
