"""A real S3 server (SeaweedFS, extra `local`) on this machine, for the time of a `with` block; loopback only."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import s3fs

from cluster.head import free_port

START_SECONDS = 60.0
_PORT_OPTIONS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
    "s3.port.grpc", "s3.port.iceberg", "s3.port.lance", "admin.port", "admin.port.grpc", "metricsPort",
)  # fmt: skip


class ObjectStore(NamedTuple):
    """A running server; `environment` holds the standard AWS variables that reach it."""

    environment: Mapping[str, str]
    process: "subprocess.Popen[bytes]"


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """Starts a server whose objects live in `folder`, with credentials of its own; ends it on the way out.

    Raises RuntimeError where it does not come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    environment = {
        "AWS_ACCESS_KEY_ID": f"key{secrets.token_hex(8)}",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [
        str(Path(sys.executable).parent / "weed"), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-s3.port={port}", "-admin.ui=false", "-webdav=false",
        *(f"-{option}={free_port()}" for option in _PORT_OPTIONS),
    ]  # fmt: skip
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
    try:
        _wait_until_up(process, environment)
        yield ObjectStore(environment, process)
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_up(process: "subprocess.Popen[bytes]", environment: Mapping[str, str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client(environment).ls("")
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the S3 server did not come up within {START_SECONDS:.0f} s")


def client(environment: Mapping[str, str]) -> s3fs.S3FileSystem:
    """A client of that server, whatever the variables of this process say."""
    return s3fs.S3FileSystem(
        key=environment["AWS_ACCESS_KEY_ID"],
        secret=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        use_listings_cache=False,
        skip_instance_cache=True,
    )
