"""How storage deals with other stores: what they refuse, throttle and lack. A proxy answers for them."""

import pytest

from cluster.object_store import client, object_store
from pipelines import storage
from pipelines.data import dataset
from pipelines.errors import UserError
from pipelines.run import lock
from pipelines.storage.s3 import PatientS3FileSystem
from tests.support.proxy import error_answer, ok_answer


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("others") / "objects") as running:
        client(running.environment).mkdir("others")
        yield running


def first_times(store, count, answer):
    """Lets the store answer so to the first `count` requests."""
    left = [count]

    def rule(method, target):
        left[0] -= 1
        return error_answer(*answer, method=method) if left[0] >= 0 else None

    store.rule = rule


@pytest.mark.parametrize("name", ["lapa[1]", "lapa*", "lapa?", "l{a,b}pa"])
def test_characters_of_patterns_in_a_name_are_characters(store, name):
    for folder in (name, "lapa1", "lapa", "lbpa", "lapax"):
        storage.write_bytes(f"s3://others/glob/{folder}/suspects/one", b"1")
    assert storage.list_files(f"s3://others/glob/{name}") == [f"s3://others/glob/{name}/suspects/one"]
    storage.delete_folder(f"s3://others/glob/{name}/suspects")
    assert not storage.exists(f"s3://others/glob/{name}/suspects/one")
    for folder in {"lapa1", "lapa", "lbpa", "lapax"} - {name}:
        assert storage.exists(f"s3://others/glob/{folder}/suspects/one")


def test_a_checkpoint_is_deleted_as_literally_by_ray_train(store):
    for folder in ("run[1]", "run1"):
        storage.write_bytes(f"s3://others/{folder}/checkpoint/weights", b"1")
    fs, path = storage.arrow_filesystem("s3://others/run[1]/checkpoint")
    fs.delete_dir(path)
    assert not storage.exists("s3://others/run[1]/checkpoint/weights")
    assert storage.exists("s3://others/run1/checkpoint/weights")


@pytest.mark.parametrize("name", ["a[1]", "a*"])
def test_local_folders_are_deleted_literally_too(tmp_path, name):
    for folder in (name, "a1", "ab"):
        storage.write_bytes(str(tmp_path / folder / "one"), b"1")
    storage.delete_folder(str(tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a1", "ab"]


@pytest.mark.parametrize(
    "answer",
    [
        (429, "TooManyRequests"),
        (400, "RequestTimeout"),
        (400, "KMS.ThrottlingException"),
        (409, "OperationAborted"),
        (408, "Whatever"),
        (425, "TooEarly"),
        (503, "SlowDown"),
        (500, "InternalError"),
    ],
)
def test_answers_that_pass_are_waited_for(store, answer):
    first_times(store, 2, answer)
    storage.write_bytes("s3://others/passing", b"there")
    first_times(store, 2, answer)
    assert storage.read_bytes("s3://others/passing") == b"there"
    assert len(store.requests) >= 6


@pytest.mark.parametrize("answer", [(501, "NotImplemented"), (400, "InvalidRequest"), (403, "AccessDenied")])
def test_answers_that_do_not_pass_are_told_at_once(store, answer):
    first_times(store, 100, answer)
    with pytest.raises(UserError, match="cannot write s3://others/refused"):
        storage.write_bytes("s3://others/refused", b"")
    assert len(store.requests) == 1


@pytest.mark.parametrize("answer", [(501, "NotImplemented"), (400, "MissingContentMD5"), (405, "MethodNotAllowed")])
def test_a_store_without_bulk_deletion_deletes_one_by_one(store, answer):
    for number in range(3):
        storage.write_bytes(f"s3://others/receipts/{number}", b"1")
    store.rule = lambda method, target: error_answer(*answer) if method == "POST" and "delete" in target else None
    storage.delete_folder("s3://others/receipts")
    assert [method for method, _ in store.requests].count("DELETE") >= 3
    assert not any(storage.exists(f"s3://others/receipts/{number}") for number in range(3))


def test_rights_to_a_prefix_only_are_enough_to_begin_there(store):
    """Such credentials may not look at the bucket itself, nor list outside of the prefix."""

    def rule(method, target):
        is_inside = target.startswith("/others/team/") or "prefix=team%2F" in target
        return None if is_inside else error_answer(403, "AccessDenied", method=method)

    store.rule = rule
    assert storage.is_empty("s3://others/team/new") and storage.list_names("s3://others/team/new/ledger") == []
    storage.check_writable("s3://others/team/new")
    with pytest.raises(UserError, match="cannot list s3://others/else"):
        storage.is_empty("s3://others/else")


def test_a_folder_made_in_a_web_console_is_empty(store, server):
    fs = client(server.environment)
    fs.call_s3("put_object", Bucket="others", Key="newrun/", Body=b"")
    assert storage.is_empty("s3://others/newrun")
    storage.write_bytes("s3://others/newrun/claim.json", b"{}")
    assert not storage.is_empty("s3://others/newrun")


def test_a_missing_bucket_is_named(store):
    with pytest.raises(UserError, match="there is no bucket nobody; create it first"):
        storage.is_empty("s3://nobody/run")


def test_reading_costs_one_request_for_each_object_and_a_new_output_one_listing(store):
    uris = [f"s3://others/many/{number}" for number in range(20)]
    for uri in uris:
        storage.write_bytes(uri, uri.encode())
    store.requests.clear()
    assert storage.read_many(uris) == [uri.encode() for uri in uris]
    assert storage.read_bytes(uris[0]) == uris[0].encode()
    assert [method for method, _ in store.requests] == ["GET"] * 21
    store.requests.clear()
    assert storage.is_empty("s3://others/brand/new")
    assert len(store.requests) == 1 and "prefix=brand%2Fnew%2F" in store.requests[0][1]


def test_an_existing_object_is_not_created_again_and_a_store_that_cannot_tell_says_so(store, caplog):
    assert storage.create_bytes("s3://others/once", b"1") and not storage.create_bytes("s3://others/once", b"2")
    with lock.ownership("s3://others/owned"):
        assert not caplog.records
    writes = []

    def overwriting(method, target):
        """Answers to the second write of an object as a store does that has written it again."""
        writes.append(target if method == "PUT" else None)
        return ok_answer() if method == "PUT" and writes.count(target) == 2 else None

    store.rule = overwriting
    with lock.ownership("s3://others/unguarded"):
        assert "ignores If-None-Match" in caplog.text


def test_a_store_without_conditional_writes_is_told_at_once(store):
    answer = error_answer(501, "NotImplemented", "A header you provided: If-None-Match")
    store.rule = lambda method, target: answer if method == "PUT" else None
    wanted = pytest.raises(UserError, match=r"cannot write s3://others/run/owner.json: .*If-None-Match")
    with wanted, lock.ownership("s3://others/run"):
        pass
    assert len([method for method, _ in store.requests if method == "PUT"]) == 1


def test_without_the_right_to_delete_one_probe_stays(store, server):
    store.rule = lambda method, target: error_answer(403, "AccessDenied") if method == "DELETE" else None
    for _ in range(3):
        storage.check_writable("s3://others/probed/run")
    assert client(server.environment).find("others/probed") == ["others/probed/run.probe"]


def test_a_folder_of_more_names_than_a_page_is_listed_whole(store):
    uris = [f"s3://others/pages/{number:04d}" for number in range(1050)]
    fs, _ = storage.filesystem("s3://others")
    fs.pipe({uri.removeprefix("s3://"): b"" for uri in uris})
    store.requests.clear()
    assert storage.list_names("s3://others/pages") == [uri.rpartition("/")[2] for uri in uris]
    assert len(store.requests) == 2


def test_what_may_be_missing_is_read_by_one_request(store):
    storage.write_json("s3://others/found/one.json", {"a": 1})
    store.requests.clear()
    assert storage.find_json("s3://others/found/one.json") == {"a": 1}
    assert storage.find_json("s3://others/found/none.json") is None
    assert [method for method, _ in store.requests] == ["GET", "GET"]


def test_a_finished_data_set_stays_finished_where_its_receipts_cannot_be_deleted(store, caplog):
    storage.write_json("s3://others/made/receipts/train/part-00000.json", {})
    refused = error_answer(403, "AccessDenied")
    store.rule = lambda method, target: refused if method in ("DELETE", "POST") else None
    dataset.finish_build("s3://others/made", {"rows": 1})
    assert dataset.is_complete("s3://others/made") and storage.read_json("s3://others/made/dataset.json") == {"rows": 1}
    assert "its receipts may be deleted at any time" in caplog.text


def test_the_client_is_the_patient_one():
    assert isinstance(storage.filesystem("s3://others/x")[0], PatientS3FileSystem)
