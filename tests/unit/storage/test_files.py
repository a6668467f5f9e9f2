"""Objects in a local folder; what only an object store shows is in tests/pipelines."""

import errno
import os

import pytest

from pipelines import storage


def test_an_object_that_is_there_is_not_created_again(tmp_path):
    uri = str(tmp_path / "folder" / "object")
    assert storage.create_bytes(uri, b"first")
    assert not storage.create_bytes(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["object"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_creates_as_exclusively(tmp_path, monkeypatch, number):
    def refuse(*_: object) -> None:
        raise OSError(number, "no hard links here")  # as exFAT and gcsfuse answer

    monkeypatch.setattr(os, "link", refuse)
    test_an_object_that_is_there_is_not_created_again(tmp_path)
