"""Objects on storage: local files, and s3:// through s3fs. They are read whole or in ranges and written atomically."""

import errno
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.errors import UserError
from pipelines.storage.causes import error_code
from pipelines.storage.many import in_one_request, known
from pipelines.storage.uris import filesystem, user_errors


def open_input(uri: str, num_bytes: int | None = None) -> pa.NativeFile:
    """The object, opened for random reads. On S3 this costs no request if its size is given.

    Does not use `arrow_filesystem`: pyarrow first asks fsspec if the file exists, and fsspec answers no after any
    error, even if the server cannot be reached.
    """
    fs, path = filesystem(uri)
    if uri.startswith("s3://"):
        file = fs.open(path, "rb", size=num_bytes)
        if num_bytes is not None:
            file.details = {"name": path, "size": num_bytes}  # which s3fs would ask for before the first read
        return pa.PythonFile(file, mode="r")
    return pa.OSFile(path)


def exists(uri: str) -> bool:
    """True if there is an object or folder at `uri`. Raises UserError if the storage fails."""
    if (data := known(uri)) is not None:
        return isinstance(data, bytes)
    fs, path = filesystem(uri)
    with user_errors("look at", uri):
        return bool(fs.exists(path))


def read_bytes(uri: str) -> bytes:
    """The whole object. Raises UserError if it does not exist or cannot be read."""
    with user_errors("read", uri):
        return _read(uri)


def find_bytes(uri: str) -> bytes | None:
    """The whole object, or None if it does not exist. On S3 this is one request; `exists` before a read would add two.

    Raises UserError if it cannot be read.
    """
    with user_errors("read", uri):
        try:
            return _read(uri)
        except FileNotFoundError:
            return None


def _read(uri: str) -> bytes:
    data = known(uri)
    if data is None:
        fs, path = filesystem(uri)
        data = fs.cat_file(path, **in_one_request(uri))
    if isinstance(data, FileNotFoundError):
        raise data
    return bytes(data)


def list_names(uri: str) -> list[str]:
    """The sorted names in the folder `uri`, without those that begin with a dot; [] if there is no folder."""
    with user_errors("list", uri):
        try:
            return sorted(name for name in _names(uri) if not name.startswith("."))
        except FileNotFoundError:
            return []


def is_empty(uri: str, ignored: str = "") -> bool:
    """True if nothing is stored below `uri`.

    Ignores names that begin with a dot, which killed writes leave behind, and names that begin with `ignored`. Raises
    UserError if the bucket does not exist, because some servers would create one for a mistyped name.
    """
    with user_errors("list", uri):
        try:
            return all(name.startswith((".", ignored or ".")) for name in _names(uri))
        except FileNotFoundError:
            if uri.startswith("s3://"):
                bucket = uri.removeprefix("s3://").partition("/")[0]
                raise UserError(f"cannot write {uri}: there is no bucket {bucket}; create it first") from None
            return True


def _names(uri: str) -> Iterator[str]:
    """Yields the names in a folder. On S3 one request gives up to 1000 names and needs no rights outside of the folder.

    Raises FileNotFoundError if the folder or, on S3, the bucket does not exist.
    """
    fs, path = filesystem(uri)
    if not uri.startswith("s3://"):
        yield from (entry.name for entry in Path(path).iterdir())
        return
    bucket, _, key = path.partition("/")
    prefix = f"{key}/" if key else ""
    request = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
    while True:
        page = fs.call_s3("list_objects_v2", fs.req_kw, **request)
        found = [entry["Key"] for entry in page.get("Contents", [])]
        found += [entry["Prefix"].rstrip("/") for entry in page.get("CommonPrefixes", [])]
        # A folder that was made in a web console is an empty object with the name of the prefix.
        yield from (name.removeprefix(prefix) for name in found if name != prefix)
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def check_writable(uri: str) -> None:
    """Raises UserError if `uri` is not writable. Leaves nothing behind where it may delete."""
    fs, path = filesystem(uri)
    is_empty(uri)  # raises if the bucket does not exist
    with user_errors("write", uri):
        if uri.startswith("s3://"):
            probe = f"{path}.probe"  # one name: without the right to delete, no more than one of them stays
            fs.pipe_file(probe, b"")
            with suppress(PermissionError):
                fs.rm_file(probe)
            return
        existing = next(folder for folder in (Path(path), *Path(path).parents) if folder.exists())
        if not os.access(existing, os.W_OK):
            raise PermissionError(f"{existing} is not writable")


def write_bytes(uri: str, data: bytes) -> None:
    """Writes the object atomically: a reader sees the old content, the new content or no object, but never a part."""
    fs, path = filesystem(uri)
    with user_errors("write", uri):
        if uri.startswith("s3://"):
            fs.pipe_file(path, data)
            return
        with _written_beside(Path(path), data) as scratch:
            scratch.replace(path)


@contextmanager
def scratch_file(folder: str) -> Iterator[Path]:
    """The path of a new local file, for content that is too large for memory and that `move_file` puts into `folder`.

    It is deleted after the `with` block if it was not moved. Below a local folder it is hidden there.
    """
    place = Path(tempfile.gettempdir()) if folder.startswith("s3://") else Path(filesystem(folder)[1])
    with user_errors("write", folder):
        place.mkdir(parents=True, exist_ok=True)
    path = place / f".{uuid.uuid4().hex}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def move_file(path: Path, uri: str) -> None:
    """Puts a local file to `uri`, atomically."""
    fs, target = filesystem(uri)
    with user_errors("write", uri):
        if uri.startswith("s3://"):
            fs.put_file(str(path), target)
        else:
            path.replace(target)


@contextmanager
def _written_beside(target: Path, data: bytes) -> Iterator[Path]:
    """Writes the data to a hidden file in the folder of `target` and deletes that file after the `with` block."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        scratch.write_bytes(data)
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)


def create_bytes(uri: str, data: bytes) -> bool:
    """Creates the object and returns True; returns False if it exists already. If several writers try, one succeeds."""
    fs, path = filesystem(uri)
    with user_errors("write", uri):
        try:
            if uri.startswith("s3://"):
                fs.pipe_file(path, data, mode="create")
                return True
            with _written_beside(Path(path), data) as scratch:
                _link(scratch, Path(path), data)
        except FileExistsError:
            return False
        except OSError as error:
            if error_code(error) not in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise
            return False
    return True


_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""Errors of file systems without hard links: FAT and exFAT, gcsfuse, Google Drive."""


def _link(scratch: Path, target: Path, data: bytes) -> None:
    """Gives the written file the name `target`. Raises FileExistsError if there is a file of that name."""
    try:
        target.hardlink_to(scratch)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        with target.open("xb") as file:  # exclusive as well, but a reader may see an empty file for a moment
            file.write(data)


def write_json(uri: str, value: Any) -> None:
    """Writes a value as JSON, atomically. Raises ValueError if it holds NaN or infinity."""
    write_bytes(uri, json.dumps(value, indent=2, allow_nan=False).encode() + b"\n")


def read_json(uri: str) -> dict[str, Any]:
    """The JSON object at `uri`. Raises UserError if the file is missing or holds anything else."""
    return parse_json(uri, read_bytes(uri))


def find_json(uri: str) -> dict[str, Any] | None:
    """The JSON object at `uri`, or None if there is no file. Raises UserError if the file holds anything else."""
    data = find_bytes(uri)
    return None if data is None else parse_json(uri, data)


def parse_json(uri: str, data: bytes) -> dict[str, Any]:
    """The JSON object in the content of `uri`. Raises UserError if it is anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{uri} is not valid JSON ({error}); it may be half-written or not ours") from error
    if not isinstance(value, dict):
        raise UserError(f"{uri} holds no JSON object")
    return value


def delete_folder(uri: str) -> None:
    """Removes everything below `uri`. Does nothing if the folder does not exist."""
    fs, path = filesystem(uri)
    with user_errors("delete", uri), suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def delete(uri: str) -> None:
    """Removes one object. Does nothing if it does not exist."""
    fs, path = filesystem(uri)
    with user_errors("delete", uri):
        if fs.exists(path):
            fs.rm_file(path)
