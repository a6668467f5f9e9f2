"""Calls of Ray actors and tasks."""

from typing import Any

import ray
from ray.exceptions import RayTaskError

from pipelines.errors import UserError


def get_result(reference: Any) -> Any:
    """What the method or task behind an ObjectRef returns; a UserError is raised as it was there."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
