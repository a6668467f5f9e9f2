"""Objects in a local folder; what only an object store shows is in tests/pipelines."""

import errno
import os

import pyarrow as pa
import pytest
from botocore.exceptions import EndpointConnectionError

from pipelines import storage
from pipelines.errors import StorageFailedError, UserError


def test_an_object_that_is_there_is_not_created_again(tmp_path):
    uri = str(tmp_path / "folder" / "object")
    assert storage.create_bytes(uri, b"first")
    assert not storage.create_bytes(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["object"]


def test_links_are_listed_as_what_they_lead_to_and_circles_end(tmp_path):
    """Among them a folder that two links lead to, folders that link to each other, and links that lead nowhere."""
    for name in ("shared/x", "a/1", "b/2"):
        storage.write_bytes(f"{tmp_path}/{name}", b"")
    (tmp_path / "file").symlink_to(tmp_path / "shared" / "x")
    (tmp_path / "a" / "shared").symlink_to(tmp_path / "shared")
    (tmp_path / "b" / "shared").symlink_to("../shared")
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    found = [uri.removeprefix(f"{tmp_path}/") for uri in storage.list_files(str(tmp_path))]
    direct = ["a/1", "a/shared/x", "b/2", "b/shared/x", "file", "itself", "lost", "shared/x"]
    assert found == sorted([*direct, "a/to_b/2", "a/to_b/shared/x", "b/to_a/1", "b/to_a/shared/x"])


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_folder_is_not_left_out_in_silence(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(UserError, match="cannot list"):
        storage.list_files(str(tmp_path))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_creates_as_exclusively(tmp_path, monkeypatch, number):
    def refuse(*_: object) -> None:
        raise OSError(number, "no hard links here")  # as exFAT and gcsfuse answer

    monkeypatch.setattr(os, "link", refuse)
    test_an_object_that_is_there_is_not_created_again(tmp_path)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EndpointConnectionError(endpoint_url="http://store"), StorageFailedError),
        (OSError(errno.EIO, "the disk"), StorageFailedError),
        (TimeoutError(), StorageFailedError),
        (pa.ArrowInvalid("no Parquet"), UserError),
        (OSError("a page of a Parquet file"), UserError),
        (FileNotFoundError(), UserError),
        (PermissionError(), UserError),
    ],
)
def test_what_another_attempt_may_read_is_told_from_what_it_would_find_again(error, kind):
    with pytest.raises(UserError, match=r"cannot read /data/x") as raised, storage.user_errors("read", "/data/x"):
        raise error
    assert type(raised.value) is kind


def test_what_was_read_at_once_is_known_without_a_request_until_the_block_ends(tmp_path):
    there, empty, missing, other = (f"{tmp_path}/{name}" for name in ("there", "empty", "missing", "other"))
    storage.write_bytes(there, b"1")
    storage.write_bytes(empty, b"")
    with storage.prefetched([there, empty, missing]):
        storage.write_bytes(missing, b"new")
        storage.write_bytes(other, b"3")
        storage.delete(there)
        assert storage.read_bytes(there) == b"1" and storage.read_bytes(empty) == b""
        assert [storage.exists(uri) for uri in (there, empty, missing, other)] == [True, True, False, True]
        with pytest.raises(UserError, match="it does not exist"):
            storage.read_bytes(missing)
        with storage.prefetched([missing]):
            assert storage.read_bytes(missing) == b"new" and storage.exists(there)
        assert storage.read_bytes(other) == b"3"
    assert storage.read_bytes(missing) == b"new" and not storage.exists(there)


def test_names_in_a_folder(tmp_path):
    for name in ("a/x", "b", ".hidden"):
        storage.write_bytes(f"{tmp_path}/{name}", b"")
    assert storage.list_names(str(tmp_path)) == ["a", "b"] and storage.list_names(f"{tmp_path}/none") == []
