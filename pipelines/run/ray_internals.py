"""All that this project uses of Ray beyond what Ray documents, each behind a function that says what for.

Ray may change any of it in any version. The tests named `test_ray_internals.py` tell when it has; then this module
is the only one to mend. It is loaded by every command: what belongs to a slow part of Ray is imported where it is used.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
from ray._common.utils import get_ray_address_file
from ray._private import ray_constants, state
from ray._private.ray_logging import global_worker_stdstream_dispatcher

from pipelines.run import ray_settings

if TYPE_CHECKING:
    from ray.data import DataContext
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

PROMETHEUS_FILE: str = ray_constants.PROMETHEUS_SERVICE_DISCOVERY_FILE
"""In the folder for Ray's temporary files: the list of nodes that a head writes for Prometheus. Without its name our
configuration of Prometheus, which repeats it, would watch a file that nobody writes."""
_PRINTER = "ray_print_logs"
"""Ray's name for the handler that prints all that the cluster's processes print."""


def is_worker() -> bool:
    """Whether Ray runs this process for a driver.

    The documented `get_task_id()` tells the same, but warns in every driver that asks. Without it, a driver's own lines
    would be marked as a worker's, or no worker's line would be shown.
    """
    return ray.is_initialized() and bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


def show_worker_output(show: Callable[[dict[str, Any]], None]) -> None:
    """Gives `show` what the cluster's processes print, line by line in its `lines`, and Ray itself prints none of it.

    Called after Ray is started. Ray can only print all of it or nothing. Without it people would see the chatter of
    all processes, or not the progress of their training.
    """
    global_worker_stdstream_dispatcher.remove_handler(_PRINTER)
    global_worker_stdstream_dispatcher.add_handler(_PRINTER, show)


class AutoscalerLimits(NamedTuple):
    """What an autoscaler may make of the cluster."""

    cpus: float
    gpus: float
    node_bytes: int
    """Memory of the largest node that it may add."""


def autoscaler_limits() -> AutoscalerLimits | None:
    """Of the connected cluster; None where nothing adds nodes to it.

    The documented `cluster_resources()` counts only nodes that are there. Without it a command would refuse to start
    on a cluster that has scaled down to its head.
    """
    config = state.state.get_cluster_config()
    grown = state.state.get_max_resources_from_cluster_config()
    if config is None or not grown:
        return None
    memories = [group.resources.get("memory", 0) for group in config.node_group_configs if group.max_count]
    return AutoscalerLimits(grown.get("CPU", 0), grown.get("GPU", 0), int(max(memories, default=0)))


def rest_between_steps(context: "DataContext", seconds: float) -> None:
    """Lets the scheduling loop of a Ray Data stream rest after each step.

    The loop waits for running tasks, and where enough is decoded ahead there are none: without rest it would spin, in
    the process and on the core of the training that it serves.
    """
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class Rest(ExecutionCallback):
        def on_execution_step(self, executor: "StreamingExecutor") -> None:
            time.sleep(seconds)

    context.custom_execution_callback_classes = [Rest]


def around_worker_start(log: Callable[[], AbstractContextManager[None]]) -> Any:
    """Returns a callback for Ray Train's controller that enters `log` whenever the workers of a training start.

    Documented callbacks are called when the workers run. Without this one nothing says what a training waits for that
    finds no free CPUs.
    """
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback

    class StartLog(WorkerGroupCallback):
        @contextmanager
        def on_worker_group_start(self) -> Iterator[None]:
            with log():
                yield

    return StartLog()


def worker_start_seconds() -> float:
    """Returns how long Ray Train waits for the resources and the start of workers, as set in this process.

    The default is documented as a number only. Without this function a log line could name another one.
    """
    from ray.train.v2._internal.constants import DEFAULT_WORKER_GROUP_START_TIMEOUT_S

    return float(os.environ.get(ray_settings.NODES_SECONDS.name, DEFAULT_WORKER_GROUP_START_TIMEOUT_S))


def latest_cluster_file() -> Path:
    """Where a machine notes the address of its latest cluster.

    Nothing documented removes the note. Without that, whoever starts Ray after the cluster has gone would wait for it.
    """
    return Path(get_ray_address_file(None))


def prepared_cluster_file(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a cluster file before it starts machines. Raises what it raises where it refuses one.

    Whatever is documented begins to start them. Without it nothing but an account at a cloud could test our file.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(config)
    validate_config(prepared)
    return prepared
