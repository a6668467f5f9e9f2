"""`result.json`: how a command ended, committed to its output.

`ray job submit` merges the streams and turns every failure into exit code 1, so scripts read this file.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from pipelines import storage
from pipelines.config import Config
from pipelines.errors import OutputTakenError, RunFailedError, UserError

RESULT = "result.json"
ConfigT = TypeVar("ConfigT", bound=Config)


def committed(command: str, config: ConfigT, run: Callable[[ConfigT], dict[str, Any]]) -> dict[str, Any]:
    """Runs the command and commits its result, or the reason why there is none, to its output."""
    try:
        result = run(config)
    except OutputTakenError:
        raise  # the output belongs to something else: nothing is written there
    except (UserError, RunFailedError) as error:
        _commit_failure(command, config, 2 if isinstance(error, UserError) else 1, str(error))
        raise
    except Exception as error:
        _commit_failure(command, config, 1, f"{type(error).__name__}: {error}")
        raise
    _write(command, result["out"] if "out" in result else result["run"], result, 0, "done")
    return result


def finished_result(out: str) -> dict[str, Any] | None:
    """The result that a finished command left at `out`, or None."""
    uri = storage.join(out, RESULT)
    if not storage.exists(uri):
        return None
    content = storage.read_json(uri)
    result = content.get("result")
    return result if content.get("exit_code") == 0 and isinstance(result, dict) else None


def _commit_failure(command: str, config: Config, exit_code: int, message: str) -> None:
    out = getattr(config, "out", None)
    try:
        # A failed attempt never hides an earlier success, and never makes a folder that was not begun.
        if out is None or storage.is_empty(out) or finished_result(out) is not None:
            return
        _write(command, out, None, exit_code, message)
    except UserError:
        return  # the storage itself is what failed; the message is on standard error


def _write(command: str, out: str, result: dict[str, Any] | None, exit_code: int, message: str) -> None:
    content = {"command": command, "exit_code": exit_code, "message": message, "result": result}
    storage.write_json(storage.join(out, RESULT), content)
