"""What must be there before any work begins; each thing that is missing is one sentence that says what to do."""

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

_FULL = 0.95
"""Share of a disk from which on Ray writes no objects there (its `local_fs_capacity_threshold`)."""


class Needs(NamedTuple):
    """What a command needs at once to make progress."""

    cpus: float
    gpus: float = 0
    process_bytes: int = 0
    """Memory of its largest process; 0 where it is not known. Compared on the CPU only: what a GPU has is not known
    before a worker sits on it."""


class Capacity(NamedTuple):
    """What the cluster has, or the autoscaler may make of it."""

    cpus: float
    gpus: float
    node_bytes: int
    """Memory of the largest node."""
    autoscales: bool = False
    """Whether there is an autoscaler that may add nodes."""


def check(needs: Needs) -> None:
    """Raises UserError with the first thing that the connected cluster lacks: Ray itself would wait for ever."""
    present = capacity()
    for problem in shortfalls(needs, present) + disk_problems():
        raise UserError(problem)
    if present.autoscales:
        ray_settings.NODES_SECONDS.set_default()


def shortfalls(needs: Needs, present: Capacity) -> list[str]:
    """What is needed and not present."""
    found = [
        f"this command needs {needed:g} {name}s at once and the cluster has {there:g}, with all that its "
        "autoscaler may add; ask for fewer workers or decode tasks, or add nodes"
        for name, needed, there in (("CPU", needs.cpus, present.cpus), ("GPU", needs.gpus, present.gpus))
        if there < needed
    ]
    if not needs.gpus and 0 < present.node_bytes < needs.process_bytes:
        found.append(
            f"one training worker needs about {_gib(needs.process_bytes)} and the largest node has "
            f"{_gib(present.node_bytes)}; lower --optimizer.batch-size or --input.size, or add a larger node"
        )
    return found


def capacity() -> Capacity:
    """Of the connected cluster."""
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


def local_capacity() -> Capacity:
    """Of a local cluster on this machine. Its CPUs are logical ones, as many as are asked for."""
    return Capacity(math.inf, torch.cuda.device_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def disk_problems() -> list[str]:
    """Of the folders where this node's logs go, and its objects when its memory is full."""
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
        f"the disk of {folder} is {usage.used / usage.total:.0%} full and Ray spills nothing to it from {_FULL:.0%} "
        "on; free some space, or start Ray with --temp-dir or --object-spilling-directory on another disk"
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
