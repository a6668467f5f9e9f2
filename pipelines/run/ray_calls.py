"""Calls of Ray actors and tasks."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayTaskError

from pipelines.errors import StorageFailedError, UserError
from pipelines.run.waiting import waiting


@contextmanager
def original_errors() -> Iterator[None]:
    """Raises the UserError of a task itself instead of a RayTaskError with a remote traceback."""
    try:
        yield
    except RayTaskError as error:
        if not isinstance(error.cause, UserError):
            raise
        kind = StorageFailedError if isinstance(error.cause, StorageFailedError) else UserError
        # Ray Data appends advice about its own retries on further lines.
        raise kind(str(error.cause).strip().partition("\n")[0]) from None


def get_result(reference: Any, what: str = "a result", level: int = logging.DEBUG) -> Any:
    """Returns the result of the method or task behind an ObjectRef. Raises its UserError without a remote traceback.

    `what` names the result in the log lines about the wait. `level` is the level of the first of them; see `waiting`.
    """
    with original_errors(), waiting(what, "no limit; Ray repeats the call if its process dies", level):
        return ray.get(reference)
