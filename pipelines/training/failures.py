"""Faults that another attempt would find again: they end a training at once, with the sentence of the worker."""

from collections.abc import Mapping
from typing import Any

from ray.train import TrainingFailedError, UserCallback

from pipelines.errors import StorageFailedError, UserError


class EndOnUserError(UserCallback):
    """Ends the training, in its controller, if a worker raises a UserError.

    Without it Ray Train would take the worker for lost and replace it, as it does if the storage has failed.
    """

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if isinstance(error, UserError) and not isinstance(error, StorageFailedError):
                raise error


def user_error(error: TrainingFailedError) -> UserError | None:
    """The UserError of a worker that has ended the training, or None if another error has."""
    failures = [getattr(error, "controller_failure", None), *getattr(error, "worker_failures", {}).values()]
    return next((cause for cause in failures if isinstance(cause, UserError)), None)
