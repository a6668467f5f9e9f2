"""Calls of Ray actors and tasks."""

import logging
from typing import Any

import ray
from ray.exceptions import RayTaskError

from pipelines.errors import UserError
from pipelines.run.waiting import waiting


def get_result(reference: Any, what: str = "a result", level: int = logging.DEBUG) -> Any:
    """Returns the result of the method or task behind an ObjectRef. Raises its UserError without a remote traceback.

    `what` names the result in the log lines about the wait. `level` is the level of the first of them; see `waiting`.
    """
    try:
        with waiting(what, "no limit; Ray repeats the call if its process dies", level):
            return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
