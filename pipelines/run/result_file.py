"""`result.json`: the exit code, message and result of a command, stored in its output.

`ray job submit` merges standard output and error and returns exit code 1 for every failure, so scripts read this file.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pipelines import storage
from pipelines.config.base import Config
from pipelines.errors import OutputTakenError, RunFailedError, UserError
from pipelines.run.paths import RunPaths

logger = logging.getLogger(__name__)
ConfigT = TypeVar("ConfigT", bound=Config)
ResultT = TypeVar("ResultT", bound=Mapping[str, Any])


def run_and_record(command: str, config: ConfigT, run: Callable[[ConfigT], ResultT]) -> ResultT:
    """Runs the command and writes result.json to its output: the result, or the error."""
    if (out := getattr(config, "out", None)) is not None:
        storage.check_writable(out)
    try:
        result = run(config)
    except OutputTakenError:
        raise  # `out` belongs to another command or configuration: write nothing there
    except (UserError, RunFailedError) as error:
        _commit_failure(command, config, 2 if isinstance(error, UserError) else 1, str(error))
        raise
    except Exception as error:
        _commit_failure(command, config, 1, f"{type(error).__name__}: {error}")
        raise
    write(command, result["out"] if "out" in result else result["run"], result, 0, "done")
    return result


def read(out: str) -> dict[str, Any]:
    """The content of `result.json` in `out`; empty if there is no such file."""
    return storage.find_json(RunPaths(out).result) or {}


def finished_result(out: str, command: str) -> dict[str, Any] | None:
    """The result that `command` stored in `out`, or None if it has not finished there."""
    content = read(out)
    result = content.get("result")
    is_done = content.get("command") == command and content.get("exit_code") == 0
    return result if is_done and isinstance(result, dict) else None


def earlier_result(out: str, command: str) -> dict[str, Any] | None:
    """Returns what `finished_result` returns. If there is a result, logs that nothing is left to do."""
    result = finished_result(out, command)
    if result is not None:
        logger.info("%s is finished; nothing to do", out)
    return result


def _commit_failure(command: str, config: Config, exit_code: int, message: str) -> None:
    out = getattr(config, "out", None)
    try:
        # A failed attempt neither replaces an earlier success nor creates a folder.
        if out is None or storage.is_empty(out) or finished_result(out, command) is not None:
            return
        if read(out).get("command", command) != command:
            return  # the existing result belongs to another command
        write(command, out, None, exit_code, message)
    except UserError:
        return  # the storage itself failed; the message is on standard error anyway


def mark_unfinished(command: str, out: str) -> None:
    """Marks the output as unfinished and discards the result of an earlier attempt."""
    write(command, out, None, None, "unfinished")


def write(command: str, out: str, result: Mapping[str, Any] | None, exit_code: int | None, message: str) -> None:
    """Writes `result.json` atomically. `exit_code` is None until the command has ended."""
    content = {"command": command, "exit_code": exit_code, "message": message, "result": result}
    storage.write_json(RunPaths(out).result, content)
