"""Settles the numbers of CPUs, decode tasks and threads that `workers` leaves to `auto`, once for each run."""

import logging
import math
import os

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from pipelines import storage
from pipelines.config.training import TrainConfig
from pipelines.config.workers import WorkersConfig
from pipelines.errors import UserError
from pipelines.run.paths import RunPaths
from pipelines.run.preflight import Capacity

logger = logging.getLogger(__name__)


class Cores(BaseModel):
    """The settled numbers of one worker."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cpus_per_worker: PositiveInt
    decode_tasks: PositiveInt
    threads: PositiveInt


class _Record(Cores):
    """The content of `cores.json`. Its numbers hold for so many workers, of this kind."""

    num_workers: PositiveInt
    use_gpu: bool


def settled(config: TrainConfig, present: Capacity, num_trials: int = 1, other_cpus: float = 0) -> WorkersConfig:
    """The workers of a run with all numbers chosen, each number as it was chosen first.

    `num_trials` trainings run at once on the cluster, with `other_cpus` for the driver of each. Given numbers go before
    those that the run has stored, and these hold as long as number and kind of the workers stay. Raises UserError if
    the stored ones are damaged.
    """
    workers = config.workers
    if workers.are_settled:
        return workers
    uri = RunPaths(config.out).cores
    content = storage.find_json(uri)
    try:
        stored = None if content is None else _Record.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{uri} is damaged; delete it, and the same command chooses again") from error
    kind = {"num_workers": workers.num_workers, "use_gpu": workers.use_gpu}
    if stored is not None and kind == stored.model_dump(include=set(kind)):
        chosen = _given_or(workers, stored)
    else:
        chosen = choose(workers, present, num_trials, other_cpus)
    record = _Record.model_validate(chosen.model_dump() | kind)
    if record != stored:
        storage.write_json(uri, record.model_dump())
    logger.info(
        "each worker: %d threads, %d CPUs, %d decode tasks", chosen.threads, chosen.cpus_per_worker, chosen.decode_tasks
    )
    return workers.model_copy(update=chosen.model_dump())


def choose(workers: WorkersConfig, present: Capacity, num_trials: int = 1, other_cpus: float = 0) -> Cores:
    """The numbers for each worker of `num_trials` trainings that share the cluster.

    Threads are no CPUs of Ray: without a GPU a worker computes on all cores of its share, because decoding beside it
    takes less than a quarter of a core. Ray's CPUs bound what is placed on a node: the worker reserves what its decode
    tasks leave.
    """
    cores = share(workers, present, num_trials, other_cpus)
    if workers.use_gpu:
        cpus = 2 if cores >= 4 else 1
        tasks = max(1, cores - (cpus if workers.cpus_per_worker == "auto" else workers.cpus_per_worker))
    else:
        tasks = 1
        cpus = max(1, cores - (tasks if workers.decode_tasks == "auto" else workers.decode_tasks))
    threads = cpus if workers.use_gpu else cores
    return _given_or(workers, Cores(cpus_per_worker=cpus, decode_tasks=tasks, threads=threads))


def share(workers: WorkersConfig, present: Capacity, num_trials: int, other_cpus: float) -> int:
    """The cores of one worker: those of a node, divided by the workers that a node of the smallest kind gets."""
    num_workers = workers.num_workers * num_trials
    others = other_cpus / workers.num_workers
    nodes = [node for node in present.nodes if node.cpus >= 1 and (node.gpus >= 1 or not workers.use_gpu)]
    num_nodes = sum(node.num_nodes for node in nodes)
    if not nodes:
        cores = present.cpus / num_workers
    elif workers.use_gpu:
        cores = min(node.cpus / node.gpus for node in nodes)
    elif num_workers <= num_nodes:  # the largest nodes have room for a worker each
        each = sorted((node.cpus for node in nodes for _ in range(node.num_nodes)), reverse=True)
        cores = each[num_workers - 1]
    else:
        cores = min(node.cpus for node in nodes) / math.ceil(num_workers / num_nodes)
    return max(1, math.floor(cores - others))


def _given_or(workers: WorkersConfig, others: Cores) -> Cores:
    """The numbers that are given, and those of `others` for the rest. Given CPUs decide about the threads too."""
    found = {name: getattr(workers, name) for name in Cores.model_fields}
    if found["threads"] == "auto" and found["cpus_per_worker"] != "auto":
        found["threads"] = found["cpus_per_worker"]
    return Cores(**{name: getattr(others, name) if value == "auto" else value for name, value in found.items()})


def num_threads(workers: WorkersConfig) -> int:
    """The number of torch threads of a worker: the chosen one, and at most the cores of this machine.

    A cluster may have more CPUs for Ray than cores. Threads that wait for a core at every barrier slow the others down.
    """
    wanted = 1 if workers.threads == "auto" else workers.threads
    return min(wanted, os.cpu_count() or 1)
