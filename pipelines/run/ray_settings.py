"""The environment variables of Ray that this project sets or reads: names, our values and the reasons for them.

`pipelines` imports this module first. It must not import Ray, because Ray reads some of the variables when it is
imported, nor any other module that is slow to import.
"""

import os
from typing import NamedTuple

ADDRESS = "RAY_ADDRESS"
"""host:port of the cluster to connect to; for `ray job submit` the URL of its dashboard. Ray sets it inside jobs."""
API_SERVER = "RAY_API_SERVER_ADDRESS"
"""The URL of the dashboard for `ray job submit`. Used if RAY_ADDRESS must hold the address for drivers."""
TOKEN_FILE = "RAY_AUTH_TOKEN_PATH"
"""The path of the file with the token that a cluster requires."""
CONTROL_PORT = "RAY_GCS_SERVER_PORT"
"""The port of the control store (GCS) of a cluster that `ray.init` starts. `ray.init` has no argument for it."""
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The configuration of a submitted job as JSON, with its runtime environment. Ray sets it for the job's driver."""
SPILL_FOLDER = "RAY_object_spilling_directory"
"""The folder to which Ray writes objects if memory is full. The default is the folder of the session."""


class Setting(NamedTuple):
    """An environment variable and the value that this project gives it."""

    name: str
    value: str | float

    @property
    def variables(self) -> dict[str, str]:
        """The setting as a mapping that can be merged into the environment of a process."""
        return {self.name: str(self.value)}

    def set_default(self) -> None:
        """Sets our value for this process and its child processes, unless the user has set the variable."""
        os.environ.setdefault(self.name, str(self.value))


LOOPBACK_ONLY = Setting("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", 0)
"""Makes a local cluster listen on loopback only. Ray reads it when it is imported. Despite its name it also works on
Linux. An explicit node address of 127.0.0.1 does not help: Ray would replace it by the machine's external address."""
AUTHENTICATION = Setting("RAY_AUTH_MODE", "token")
"""Makes every cluster require a token, even one started by a benchmark or a notebook. Ray reads it when imported."""
HEALTH_CHECK_SECONDS = Setting("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", 0.2)
"""Time between two polls of the workers by Ray Train's controller; Ray's default is 2 s. The controller commits
checkpoints only when it polls, so short epochs would wait for it."""
NODES_SECONDS = Setting("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", 1800)
"""Longest wait of a training's workers for nodes that an autoscaler adds. Without an autoscaler Ray's 60 s apply."""
TRIAL_PLACE_SECONDS = Setting("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", 3600)
"""Longest wait of a trial's workers for resources that other trials hold."""
DRAIN_SECONDS = Setting("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 0)
"""Time that a node waits for its actors when it is stopped. With actors that outlive their driver it would wait for the
full 30 s that are Ray's default."""
