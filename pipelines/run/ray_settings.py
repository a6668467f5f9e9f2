"""The environment variables of Ray that this project sets or reads: their names, our values, and why.

It imports nothing of Ray, which reads some of them when it is imported, and nothing that takes time: `pipelines` loads
it first.
"""

import os
from typing import NamedTuple

ADDRESS = "RAY_ADDRESS"
"""host:port of the cluster to connect to; for `ray job submit` the URL of its dashboard. Set inside jobs."""
API_SERVER = "RAY_API_SERVER_ADDRESS"
"""The URL of the dashboard, for `ray job submit`, where RAY_ADDRESS is for drivers."""
TOKEN_FILE = "RAY_AUTH_TOKEN_PATH"
"""The file with the token that a cluster asks for."""
CONTROL_PORT = "RAY_GCS_SERVER_PORT"
"""The port of the control store (GCS) of a cluster that `ray.init` starts; there is no argument for it."""
SPILL_FOLDER = "RAY_object_spilling_directory"
"""Where Ray writes objects when memory is full, if not to its session's folder."""


class Setting(NamedTuple):
    """A variable, and the value that this project gives it."""

    name: str
    value: str | float

    @property
    def variables(self) -> dict[str, str]:
        """As an environment, to be merged into that of a process."""
        return {self.name: str(self.value)}

    def set_default(self) -> None:
        """Gives this process, and those that it starts, our value where the user has given none."""
        os.environ.setdefault(self.name, str(self.value))


LOOPBACK_ONLY = Setting("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", 0)
"""A local cluster listens on loopback only. Ray reads it when it is imported and, its name notwithstanding, heeds it on
Linux too; an explicit node address of 127.0.0.1 it would replace by the machine's outer one."""
AUTHENTICATION = Setting("RAY_AUTH_MODE", "token")
"""Every cluster asks for a token, also one that a benchmark or a notebook starts. Ray reads it when it is imported."""
HEALTH_CHECK_SECONDS = Setting("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", 0.2)
"""The pause between two looks of Ray Train's controller at its workers, 2 s by default: it commits their checkpoints
there, and small epochs would wait for it."""
NODES_SECONDS = Setting("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", 1800)
"""How long the workers of a training may wait for nodes that an autoscaler adds; on other clusters Ray's 60 s hold."""
TRIAL_PLACE_SECONDS = Setting("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", 3600)
"""How long the workers of a trial may wait for their place: other trials take their time."""
DRAIN_SECONDS = Setting("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 0)
"""How long a node that is ended waits for its actors: those that outlive their driver would take all of 30 s."""
