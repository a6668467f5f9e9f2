"""What only a real object store shows."""

import os

import pytest

from pipelines import storage
from pipelines.errors import OutputTakenError
from pipelines.run import lock


def test_of_several_writers_that_create_an_object_the_first_one_wins(s3):
    uri = f"{s3}/created/object"
    assert storage.create_bytes(uri, b"first")
    assert not storage.create_bytes(uri, b"second")
    assert storage.read_bytes(uri) == b"first"


def test_a_run_on_object_storage_has_one_owner(s3):
    run = f"{s3}/owned/run"
    with lock.ownership(run):
        found = lock.current_owner(run)
        assert found is not None and found.pid == os.getpid()
        with pytest.raises(OutputTakenError, match=f"process {os.getpid()}"), lock.ownership(run):
            pass
        assert lock.current_owner(run) == found
    assert not storage.exists(f"{run}/owner.json")
