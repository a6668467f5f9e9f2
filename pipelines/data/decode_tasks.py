"""Ray Data sets whose rows are decoded by tasks on the cluster. A task needs only its number."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy.typing as npt
import ray.data
from ray.data import ExecutionResources

from pipelines.run import console, ray_internals

Columns = dict[str, npt.NDArray[Any]]
MAX_TASKS = 2000
"""Maximum number of tasks in one Ray Data set. Ray plans all of them before it starts the first one, in a time that
grows faster than their number: 2,000 take about 3 s, 20,000 take 36 s."""
_CHUNKS_AHEAD = 4
"""Number of chunks that may be decoded ahead of the consumer, for each task that may run, and as many more."""
_REST_SECONDS = 0.01
"""Pause of Ray Data's scheduling loop after each step: without it the loop would take a core from the training."""


def decoded_in_tasks(num_tasks: int, decode: Callable[[int], Iterable[Columns]]) -> ray.data.Dataset:
    """A Ray Data set of what `decode` yields for the numbers 0, 1, ..., in any order. Each number is a task."""

    def call(batch: Columns) -> Iterator[Columns]:
        console.forward_logs_to_driver()
        yield from decode(int(batch["id"][0]))

    numbers = ray.data.range(num_tasks, override_num_blocks=num_tasks)
    chunks = numbers.map_batches(call, batch_size=None, batch_format="numpy")
    chunks.context.enable_progress_bars = False
    chunks.context.raise_original_map_exception = True  # a training worker does not inherit that of the session
    return chunks


def decoded_in_order(
    num_tasks: int, decode: Callable[[int], Iterable[Columns]], tasks_at_once: int, chunk_bytes: int
) -> ray.data.Dataset:
    """A Ray Data set of what `decode` yields for the numbers 0, 1, ..., in order: one chunk or a few for each task.

    At most `tasks_at_once` run at once, and decoding runs at most a few chunks per task ahead of the consumer. Ray's
    default would fill the object store.
    """
    chunks = decoded_in_tasks(num_tasks, decode)
    ahead = _CHUNKS_AHEAD * (tasks_at_once + 1) * chunk_bytes
    options = chunks.context.execution_options
    options.preserve_order = True
    # `TaskPoolStrategy(size=...)` would limit the tasks too, but keep Ray from fusing the two steps into one task.
    options.resource_limits = ExecutionResources(cpu=tasks_at_once, object_store_memory=ahead)
    # A chunk is a block: it is handed on as soon as it is decoded, and not cut below one and a half times this size.
    chunks.context.target_max_block_size = 3 * chunk_bytes // 4
    ray_internals.rest_between_steps(chunks.context, _REST_SECONDS)
    return chunks
