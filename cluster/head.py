"""A Ray head on this machine, for the time of a `with` block: loopback only, token authentication, dashboard on."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

START_SECONDS = 90.0
STOP_SECONDS = 30.0


class Head(NamedTuple):
    """A running head: `environment` is what `ray job submit` needs to reach it."""

    dashboard: str
    environment: Mapping[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def ray_head(folder: Path, num_cpus: int) -> Iterator[Head]:
    """Starts a head whose logs and token live in `folder`; ends it, and nothing else, on the way out.

    Raises RuntimeError where the head does not come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port, dashboard_port = free_port(), free_port()
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",  # jobs run the `python` that the head finds
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only; see pipelines/__init__.py
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    environment.pop("RAY_ADDRESS", None)
    dashboard = f"http://127.0.0.1:{dashboard_port}"
    command = [
        f"{bin_folder}/ray", "start", "--head", "--block", "--disable-usage-stats",
        f"--port={port}", f"--num-cpus={num_cpus}",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
    ]  # fmt: skip
    with (folder / "head.log").open("w") as log:
        # Its own process group: whatever Ray starts can be ended by that group's id.
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_up(process, dashboard, folder / "head.log")
        submit = {name: environment[name] for name in ("PATH", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
        yield Head(dashboard, submit | {"RAY_ADDRESS": dashboard})
    finally:
        _stop(process)


def _wait_until_up(process: subprocess.Popen[bytes], dashboard: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{dashboard}/api/version", timeout=5):
                return
        except OSError as error:
            if getattr(error, "code", None) in (401, 403):  # it answers, and asks for the token
                return
            time.sleep(0.5)
    raise RuntimeError(f"the Ray head did not come up within {START_SECONDS:.0f} s; see {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """`ray start --block` ends its children on SIGTERM; what is left of the group after that is killed."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
