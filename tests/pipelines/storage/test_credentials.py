"""Credentials that a machine's metadata service gives."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cluster.object_store import client, object_store
from pipelines import storage
from tests.support.commands import variables

SLOW_SECONDS = 1.5
"""Longer than botocore waits by default."""


class MetadataService(ThreadingHTTPServer):
    """Gives the credentials of a store as the metadata service of a cloud machine does; its first answer is slow."""

    def __init__(self, key: str, secret: str) -> None:
        self.credentials = {"AccessKeyId": key, "SecretAccessKey": secret, "Token": "", "Code": "Success"}
        self.credentials |= {"Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z"}
        self.credentials |= {"Expiration": "2999-01-01T00:00:00Z"}
        self.num_requests, self.may_answer = 0, threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: MetadataService

    def do_PUT(self) -> None:
        self.server.num_requests += 1
        if self.server.num_requests == 1:
            self.server.may_answer.wait(SLOW_SECONDS)  # is never set
        with suppress(BrokenPipeError):  # who asked has given up meanwhile
            self._answer(b"token")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "token":  # HttpTokens: required
            self.send_error(401)
            return
        is_list = self.path.endswith("/security-credentials/")
        self._answer(b"role" if is_list else json.dumps(self.server.credentials).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service(tmp_path) -> Iterator[tuple[MetadataService, dict[str, str]]]:
    """The service, and the environment of a machine that has no other credentials."""
    with object_store(tmp_path / "objects") as store:
        client(store.environment).mkdir("metadata")
        found = dict(store.environment)
        with MetadataService(found.pop("AWS_ACCESS_KEY_ID"), found.pop("AWS_SECRET_ACCESS_KEY")) as running:
            threading.Thread(target=running.serve_forever, daemon=True).start()
            found["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = f"http://127.0.0.1:{running.server_port}/"
            yield running, found
            running.shutdown()


def test_one_slow_answer_of_the_metadata_service_does_not_mean_that_there_are_no_credentials(service, monkeypatch):
    running, environment = service
    settings = ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "AWS_METADATA_SERVICE_TIMEOUT")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", *settings):
        monkeypatch.delenv(name, raising=False)
    with variables(environment):
        storage.write_bytes("s3://metadata/object", b"there")
        assert storage.read_bytes("s3://metadata/object") == b"there"
    assert running.num_requests
