"""The states of runs and trials."""

from enum import StrEnum

from pipelines import storage
from pipelines.run import result_file
from pipelines.run.paths import RunPaths


class State(StrEnum):
    """The state of a run or a trial."""

    FINISHED = "finished"
    """It has a result; the same command does nothing."""
    FAILED = "failed"
    """It ended with an error; the same command tries it again."""
    STOPPED = "stopped"
    """The sweep stopped it early; it is not continued."""
    UNFINISHED = "unfinished"
    """None of the three above. The stored files alone do not show whether a driver is working on it."""
    RUNNING = "running"
    """Unfinished, and its driver is alive."""
    INTERRUPTED = "interrupted"
    """Unfinished, and no driver is alive; the same command continues."""

    def with_driver(self, alive: bool) -> "State":
        """Replaces UNFINISHED by RUNNING if the driver is alive, else by INTERRUPTED. Any other state stays."""
        if self is not State.UNFINISHED:
            return self
        return State.RUNNING if alive else State.INTERRUPTED


def state_of(out: str) -> State:
    """The state of a run or trial by its stored files: finished, failed, stopped or unfinished."""
    exit_code = result_file.read(out).get("exit_code")
    if exit_code is not None:
        return State.FAILED if exit_code else State.FINISHED
    return State.STOPPED if storage.exists(RunPaths(out).stopped) else State.UNFINISHED
