"""A real S3 server (SeaweedFS, extra `local`) on this machine. It listens on loopback only."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import s3fs

from cluster.head import free_port

START_SECONDS = 60.0
"""Longest time in seconds that the server may take to answer; it is generous, since a busy machine is slow."""
_PORT_OPTIONS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
    "s3.port.grpc", "s3.port.iceberg", "s3.port.lance", "admin.port", "admin.port.grpc", "metricsPort",
)  # fmt: skip


class ObjectStore:
    """An S3 server that stores its objects in `folder`.

    `environment` holds the AWS variables that clients need. `known` are the variables of an earlier server of the same
    folder, whose credentials are kept.
    """

    def __init__(self, folder: Path, known: Mapping[str, str] = MappingProxyType({})) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.environment: Mapping[str, str] = {
            "AWS_ACCESS_KEY_ID": f"key{secrets.token_hex(8)}",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "AWS_DEFAULT_REGION": "us-east-1",
            **known,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }
        self._command = [
            str(Path(sys.executable).parent / "weed"), "mini", f"-dir={folder}", "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1", f"-s3.port={port}", "-admin.ui=false", "-webdav=false",
            *(f"-{option}={free_port()}" for option in _PORT_OPTIONS),
        ]  # fmt: skip
        self._log = folder.parent / f"{folder.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server; after `kill` it starts again with its objects.

        Raises RuntimeError if it does not answer within START_SECONDS.
        """
        with self._log.open("a") as log:  # a session of its own, so that Ctrl-C does not reach it
            self.process = subprocess.Popen(
                self._command, env=os.environ | self.environment, stdout=log, stderr=log, start_new_session=True
            )
        _wait_until_up(self.process, self.environment)

    def kill(self) -> None:
        """Kills the server with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """Ends the server. It is killed if it does not end within 30 s, since it may wait for a client's connection."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """Runs a server with credentials of its own during a `with` block."""
    store = ObjectStore(folder)
    try:
        store.start()
        yield store
    finally:
        store.stop()


def _wait_until_up(process: "subprocess.Popen[bytes]", environment: Mapping[str, str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client(environment).ls("")
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the S3 server did not answer within {START_SECONDS:.0f} s")


def client(environment: Mapping[str, str]) -> s3fs.S3FileSystem:
    """A client of the server that `environment` describes; the variables of this process are not used."""
    return s3fs.S3FileSystem(
        key=environment["AWS_ACCESS_KEY_ID"],
        secret=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        use_listings_cache=False,
        skip_instance_cache=True,
    )
