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
from pipelines.run.ray_internals import AutoscalerLimits, Node

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
    num_workers: int = 0
    """Number of workers or actors, each of which needs `worker_cpus` and its part of `gpus` on one node."""
    worker_cpus: float = 0
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
    nodes: tuple[Node, ...] = ()
    """The present nodes and those that the autoscaler may add, some of which may be the same; empty if unknown."""


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
    return found or _worker_shortfalls(needs, present)


def _worker_shortfalls(needs: Needs, present: Capacity) -> list[str]:
    """A sentence if too few workers find a node with room for a whole worker, though all resources exist."""
    if not needs.num_workers or not present.nodes:
        return []
    cpus, gpus = needs.worker_cpus, needs.gpus / needs.num_workers
    num_fitting = sum(_num_fitting(node, cpus, gpus) for node in present.nodes)
    if num_fitting >= needs.num_workers:
        return []
    who = "the worker" if needs.num_workers == 1 else f"each of {needs.num_workers} workers"
    each = f"{cpus:g} CPUs" + (f" and {gpus:g} GPU" if gpus else "")
    largest = max(present.nodes)
    return [
        f"{who} needs {each} on one node, and the nodes, including those that an autoscaler may add, have room for "
        f"{num_fitting:g} (the largest has {largest.cpus:g} CPUs and {largest.gpus:g} GPUs); ask for fewer or smaller "
        "workers, or add larger nodes"
    ]


def _num_fitting(node: Node, cpus: float, gpus: float) -> float:
    """The number of workers for which all nodes of this kind have room."""
    return node.num_nodes * min(node.cpus // cpus, node.gpus // gpus if gpus else math.inf)


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
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    memories = [resources.get("memory", 0) for resources in there]
    limits = ray_internals.autoscaler_limits()
    grown = AutoscalerLimits(0, 0, 0, ()) if limits is None else limits
    return Capacity(
        max(now.get("CPU", 0), grown.cpus),
        max(now.get("GPU", 0), grown.gpus),
        int(max([*memories, grown.node_bytes])),
        limits is not None,
        (*(Node(resources.get("CPU", 0), resources.get("GPU", 0)) for resources in there), *grown.nodes),
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
