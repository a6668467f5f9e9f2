"""The undocumented parts of Ray that this project uses. Each is wrapped in a function that states its purpose.

Ray may change any of them in any version. The tests named `test_ray_internals.py` fail if it does; then only this
module must be changed. Every command loads it, so the functions import slow parts of Ray only when they are called.
"""

import os
import sys
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
"""Name of the list of nodes that a head writes for Prometheus into the folder for Ray's temporary files. Our
configuration of Prometheus repeats the name. If Ray changed it, Prometheus would watch a file that does not exist."""
_PRINTER = "ray_print_logs"
"""Ray's name for the handler that prints the output of all processes of the cluster."""


def is_worker() -> bool:
    """True if this process is a Ray worker: one that Ray runs for a driver.

    The documented `get_task_id()` gives the same answer, but logs a warning in every driver that calls it. Without this
    function a driver's own lines would be marked as lines of a worker, or no line of a worker would be shown.
    """
    return ray.is_initialized() and bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


def show_worker_output(show: Callable[[dict[str, Any]], None]) -> None:
    """Calls `show` with the output of the cluster's processes, as a list of lines under "lines". Ray prints none of it.

    Must be called after Ray is started. The documented option of Ray prints all output or none. Without this function
    the console would show all messages of all processes, or no progress of the training.
    """
    global_worker_stdstream_dispatcher.remove_handler(_PRINTER)
    global_worker_stdstream_dispatcher.add_handler(_PRINTER, show)


class Node(NamedTuple):
    """The resources of one node, and the number of such nodes."""

    cpus: float
    gpus: float
    num_nodes: int = 1


class AutoscalerLimits(NamedTuple):
    """The largest resources that an autoscaler may give the cluster."""

    cpus: float
    gpus: float
    node_bytes: int
    """Memory in bytes of the largest node that it may add; 0 if unknown."""
    nodes: tuple[Node, ...]
    """The nodes of which it may add at least one, each with its largest count."""


def autoscaler_limits() -> AutoscalerLimits | None:
    """Limits of the autoscaler of the connected cluster; None if nothing adds nodes to it.

    The documented `cluster_resources()` only counts present nodes. Without this function a command would refuse to
    start on a cluster that has scaled down to its head.
    """
    config = state.state.get_cluster_config()
    grown = state.state.get_max_resources_from_cluster_config()
    if config is None or not grown:
        return None
    groups = [group for group in config.node_group_configs if group.max_count]
    memories = [group.resources.get("memory", 0) for group in groups]
    nodes = tuple(
        Node(_number(group.resources.get("CPU", 0)), _number(group.resources.get("GPU", 0)), _number(group.max_count))
        for group in groups
    )
    return AutoscalerLimits(grown.get("CPU", 0), grown.get("GPU", 0), int(max(memories, default=0)), nodes)


def _number(configured: int) -> int:
    """The configured number as a count: -1 means that there is no limit."""
    return sys.maxsize if configured == -1 else configured


def rest_between_steps(context: "DataContext", seconds: float) -> None:
    """Makes the scheduling loop of a Ray Data stream sleep for `seconds` after each step.

    The loop only waits for running tasks. If enough batches are decoded ahead, no task runs. Without the sleep the loop
    would then spin in the training process and take CPU time from the training.
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
    """The path of the file in which a machine keeps the address of its latest cluster.

    No documented call removes the file. If it stayed after the cluster has ended, the next start of Ray would wait for
    that cluster.
    """
    return Path(get_ray_address_file(None))


def prepared_cluster_file(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration that `ray up` derives from a cluster file before it starts machines.

    Raises the same errors as `ray up` if the file is refused. Every documented call also starts the machines. Without
    this function the cluster file could only be tested with an account at a cloud provider.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(config)
    validate_config(prepared)
    return prepared
