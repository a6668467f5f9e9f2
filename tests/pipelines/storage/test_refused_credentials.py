"""Credentials that the store refuses stop a job with one sentence; no object or row is blamed."""

import re

import pytest

from cluster.object_store import client, object_store
from pipelines import storage
from pipelines.errors import UserError
from pipelines.inference import photos
from pipelines.ingest import rows
from pipelines.ingest.raw_files import RawSample
from tests.support.commands import variables
from tests.support.proxy import error_answer

OBJECT = "s3://refusing/x"
READS = [
    lambda uri: storage.exists(uri),  # HEAD, whose answers have no body
    lambda uri: storage.open_input(uri),
    lambda uri: storage.read_bytes(uri),
    lambda uri: storage.read_many([uri, uri]),
    lambda uri: storage.list_files(uri),
    lambda uri: storage.is_empty(uri),
    lambda uri: storage.write_bytes(uri, b""),
    lambda uri: storage.delete(uri),
]
ANSWERS = [
    (400, "ExpiredToken", "the credentials have expired"),
    (400, "InvalidToken", "check AWS_SESSION_TOKEN"),
    (403, "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
    (403, "SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY"),
    (403, "RequestTimeTooSkewed", "the clock of "),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("refusing") / "objects") as running:
        client(running.environment).mkdir("refusing")
        yield running


def sentence(read):
    """What `read` says of an object that it cannot read."""
    with pytest.raises(UserError) as caught, storage.user_errors("open", OBJECT):  # as around `open_input`
        read(OBJECT)
    return str(caught.value)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(("status", "code", "advice"), ANSWERS)
def test_every_request_names_what_is_wrong_with_the_credentials(store, read, status, code, advice):
    store.rule = lambda method, target: error_answer(status, code, "what the store says", method)
    assert re.fullmatch(rf"cannot [a-z ]+ {OBJECT}: .*{advice}.* \({code}\)", sentence(read))
    assert len(store.requests) <= 3


@pytest.mark.parametrize("read", READS[:5])
@pytest.mark.parametrize(
    ("variable", "advice"),
    [("AWS_ACCESS_KEY_ID", "not know the access key"), ("AWS_SECRET_ACCESS_KEY", "secret key does not belong")],
)
def test_a_real_store_refuses_a_wrong_key(store, read, variable, advice):
    with variables({variable: "wrong"}):
        assert advice in sentence(read)
    assert len(store.requests) <= 3


@pytest.mark.parametrize("code", ["AccessDenied", "AllAccessDisabled"])
def test_an_object_that_is_forbidden_is_the_fault_of_that_object(store, code):
    storage.write_bytes("s3://refusing/open", b"there")
    store.rule = lambda method, target: (
        error_answer(403, code, "no entry", method) if target.split("?")[0].endswith("/closed") else None
    )
    found, refused = storage.read_many(["s3://refusing/open", "s3://refusing/closed"])
    assert found == b"there" and isinstance(refused, UserError) and "no entry" in str(refused)
    with pytest.raises(UserError, match="cannot look at s3://refusing/closed: no entry"):
        storage.exists("s3://refusing/closed")


@pytest.mark.parametrize(
    "read",
    [
        lambda uri: rows.pack_samples([RawSample("one", uri, ())], None),
        lambda uri: photos.read_photos("s3://refusing", [(uri, "one")]),
    ],
)
@pytest.mark.parametrize(("code", "is_rejected"), [("AccessDenied", True), ("ExpiredToken", False)])
def test_ingest_and_predict_reject_what_is_forbidden_and_stop_when_credentials_expire(store, read, code, is_rejected):
    store.rule = lambda method, target: error_answer(403, code, "no entry", method) if "/x" in target else None
    if is_rejected:
        rejected = read(OBJECT)[1]
        assert [problem["source"] for problem in rejected] == [OBJECT]
    else:
        assert "the credentials have expired" in sentence(read)
