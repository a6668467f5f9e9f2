"""Environment of the workers on a given cluster: variables that a driver hands on, and a proof of the input.

Workers of a local cluster inherit all variables. Those of a given cluster have the variables of their nodes.
"""

import json
import logging
import os
from collections.abc import Sequence

import ray
from ray.exceptions import RayTaskError

from pipelines import storage
from pipelines.errors import UserError
from pipelines.run import console, ray_settings
from pipelines.run.waiting import waiting

HANDED_ON = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_CA_BUNDLE",
    "FSSPEC_S3_ENDPOINT_URL",
    "FSSPEC_S3_PROFILE",
    console.LOG_LEVEL,
)
"""Variables that workers get from the driver. No secret is among them: everybody who may look at the cluster sees the
variables of its jobs."""


def variables() -> dict[str, str]:
    """The variables of this process that its workers shall have, except those that a submitted job gives them anyway.

    Ray refuses a variable that both the job and its driver give.
    """
    job = json.loads(os.environ.get(ray_settings.JOB_CONFIG, "{}"))
    given = ((job.get("runtime_env") or {}).get("env_vars") or {}).keys()
    return {name: os.environ[name] for name in HANDED_ON if name in os.environ and name not in given}


def check_inputs(uris: Sequence[str]) -> None:
    """Proves by one task that a worker finds the files or folders. Raises UserError if it does not."""
    look = ray.remote(_found)
    try:
        with waiting("a worker that looks at the input", level=logging.DEBUG):
            found = ray.get(look.remote(uris))
    except RayTaskError as error:
        if not isinstance(error.cause, UserError):
            raise
        raise UserError(
            f"a worker {error.cause}; workers get endpoint, region, profile and certificates from the driver, but no "
            "secrets: start the nodes with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give them a role or profile"
        ) from None
    for uri, is_found in zip(uris, found, strict=True):
        if not is_found:
            raise UserError(f"a worker does not find {uri}; use s3://, or a folder that all nodes share")


def _found(uris: Sequence[str]) -> list[bool]:
    return [storage.exists(uri) for uri in uris]
