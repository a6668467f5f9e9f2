"""Objects in a local folder; what only an object store shows is in tests/pipelines."""

from pipelines import storage


def test_an_object_that_is_there_is_not_created_again(tmp_path):
    uri = str(tmp_path / "folder" / "object")
    assert storage.create_bytes(uri, b"first")
    assert not storage.create_bytes(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["object"]
