"""What requests to S3 carry, and which rights they need: a proxy answers all of them itself."""

import json
import re
from contextlib import suppress

import fsspec.config
import pytest

from pipelines import storage
from pipelines.errors import UserError
from tests.support.commands import ROOT, variables
from tests.support.proxy import error_answer, ok_answer, proxy

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
DOCUMENTED = re.findall(r"^export FSSPEC_S3='(.+)'$", (ROOT / "docs/data.md").read_text(), re.MULTILINE)


@pytest.fixture
def store():
    with proxy("http://127.0.0.1:9") as running, variables(KEYS | {"AWS_ENDPOINT_URL": running.endpoint}):
        running.rule = lambda method, target: (
            ok_answer() if method == "PUT" else error_answer(404, "NoSuchKey", method=method)
        )
        yield running


def configure(monkeypatch, text):
    """Takes `FSSPEC_S3` as fsspec does when it is loaded."""
    found = {}
    fsspec.config.set_conf_env(found, {"FSSPEC_S3": text})
    monkeypatch.setitem(fsspec.config.conf, "s3", found["s3"])


def everything():
    """Calls each function that makes requests; the store has no object and takes all that is written."""
    uri = "s3://bucket/folder/object"
    calls = (
        storage.read_bytes, storage.exists, storage.list_files, storage.list_names, storage.is_empty,
        storage.check_writable, storage.delete, storage.delete_folder, lambda uri: storage.read_many([uri]),
        lambda uri: storage.write_bytes(uri, b"1"), lambda uri: storage.create_bytes(uri, b"1"),
        lambda uri: storage.open_input(uri).read(),
    )  # fmt: skip
    for call in calls:
        with suppress(UserError, OSError):
            call(uri)


def test_new_objects_are_encrypted_with_the_key_of_the_documented_options(store, monkeypatch):
    configure(monkeypatch, next(text for text in DOCUMENTED if "KMS" in text))
    everything()
    written = [head for (method, _), head in zip(store.requests, store.headers, strict=True) if method == "PUT"]
    assert len(written) >= 2
    for head in written:
        assert head["x-amz-server-side-encryption"] == "aws:kms"
        assert head["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/faces"


def test_the_requester_pays_for_every_request_with_the_documented_options(store, monkeypatch):
    configure(monkeypatch, next(text for text in DOCUMENTED if "requester" in text))
    everything()
    assert {method for method, _ in store.requests} >= {"GET", "HEAD", "PUT"}
    unpaid = [
        request
        for request, head in zip(store.requests, store.headers, strict=True)
        if head.get("x-amz-request-payer") != "requester"
    ]
    assert unpaid == []


def right_of(method, target):
    if method == "DELETE" or (method == "POST" and "delete" in target):
        return "s3:DeleteObject"
    if method == "GET" and "list-type=2" in target:
        return "s3:ListBucket"
    return {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject"}[method]


def test_the_documented_policy_allows_every_request_and_lists_below_prefixes_only(store):
    (text,) = re.findall(r"```json\n(.+?)```", (ROOT / "docs/clusters.md").read_text(), re.DOTALL)
    source, folder, listing = json.loads(text)["Statement"]
    everything()
    needed = {right_of(*request) for request in store.requests}
    assert needed <= {*folder["Action"], listing["Action"]} and source["Action"] in folder["Action"]
    prefixes = [re.search(r"prefix=([^&]*)", target)[1] for _, target in store.requests if "list-type=2" in target]
    assert prefixes and all(prefix.startswith("folder") for prefix in prefixes)
