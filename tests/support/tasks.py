"""The orchestrator's tasks without a cluster."""

from collections.abc import Callable
from typing import Any

import pytest

from pipelines.regulation import orchestrator, tasks


class InProcess:
    """Replaces a Ray task: calls its function in this process."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def options(self, **resources: Any) -> "InProcess":
        return self

    def remote(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def run_in_process(patch: pytest.MonkeyPatch, **functions: Callable[..., Any]) -> None:
    """Puts a function in the place of each named task of `pipelines.regulation.tasks`."""
    for name, function in functions.items():
        patch.setattr(tasks, name, InProcess(function))
    patch.setattr(orchestrator, "get_result", lambda result, *_: result)
