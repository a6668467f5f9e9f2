"""Calls of Ray actors and tasks."""

import logging
from typing import Any

import ray
from ray.exceptions import RayTaskError

from pipelines.errors import UserError
from pipelines.run.waiting import waiting


def get_result(reference: Any, what: str = "a result", level: int = logging.DEBUG) -> Any:
    """Returns what the method or task behind an ObjectRef returns. Raises its UserError as it was raised there.

    `what` names the result in the lines about the wait, the first of which has `level`; see `waiting`.
    """
    try:
        with waiting(what, "no limit; Ray repeats the call if its process dies", level):
            return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
