"""Storage URIs, their file systems, and errors of storage as UserError."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.fs
from botocore.exceptions import BotoCoreError, ClientError

from pipelines.errors import StorageFailedError, UserError
from pipelines.storage import s3
from pipelines.storage.causes import connection_problem, credentials_problem


def absolute(uri: str) -> str:
    """An absolute local path, or an s3:// URI without trailing slash.

    Raises UserError for an unknown scheme or an empty URI. Inside a submitted Ray job it also raises UserError for a
    relative path, because the working directory of a job is a temporary copy that is deleted with the job.
    """
    scheme, separator, rest = uri.partition("://")
    is_known = (scheme == "s3" and rest.strip("/")) or (scheme == "file" and rest.startswith("/"))
    if not uri or (separator and not is_known):
        raise UserError(f"cannot use {uri!r} as storage: give a local path, file:///path or s3://bucket/key")
    if separator and scheme == "s3":
        return uri.rstrip("/")
    path = Path(os.path.expanduser(rest if separator else uri))  # noqa: PTH111 (`Path.expanduser` raises for unknown users)
    if not path.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise UserError(
            f"{uri!r} is a relative path, and the folder of a submitted job is deleted when the job ends; "
            "give an absolute path or s3://bucket/key"
        )
    return os.path.normpath(path.absolute())


def join(uri: str, *parts: str) -> str:
    """`uri` and the parts below it, joined by slashes."""
    return "/".join([uri.rstrip("/"), *parts])


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names, in their order; a name that was used before gets a number, as `lapa-2`."""
    found: list[str] = []
    for name in names:
        candidates = (name if number == 1 else f"{name}-{number}" for number in count(1))
        found.append(next(candidate for candidate in candidates if candidate not in found))
    return found


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of `uri` and the path inside it."""
    uri = absolute(uri)
    if uri.startswith("s3://"):
        return s3.filesystem(), uri.removeprefix("s3://")
    return fsspec.filesystem("file"), uri


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The pyarrow file system of `uri`, which Ray Train needs, and the path inside it."""
    fs, path = filesystem(uri)
    if uri.startswith("s3://"):
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), path
    return pyarrow.fs.LocalFileSystem(), path


_ERRORS = (BotoCoreError, ClientError, OSError, ValueError, pa.ArrowException)
"""Errors that storage, and readers of stored files, raise."""


def explained(action: str, uri: str, error: Exception) -> UserError:
    """A UserError that describes an error of the storage in one sentence. Only the user can remove its cause.

    It is a StorageFailedError if the storage itself failed, and not if the object is missing, forbidden or damaged.
    """
    if problem := credentials_problem(error):
        return UserError(f"cannot {action} {uri}: {problem}")
    if problem := connection_problem(error):
        return StorageFailedError(f"cannot {action} {uri}: {problem}")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UserError(f"cannot {action} {uri}: it does not exist")
    if isinstance(error, PermissionError | IsADirectoryError | FileExistsError):
        reason = error.strerror or str(error) or type(error).__name__
        return UserError(f"cannot {action} {uri}: {reason}; check the path and your credentials")
    return (UserError if is_damage(error) else StorageFailedError)(f"cannot {action} {uri}: {error}")


def is_damage(error: BaseException | None) -> bool:
    """True if an error is about the content of a file: pyarrow raises OSError without a number for some damage."""
    return isinstance(error, ValueError | pa.ArrowException) or (type(error) is OSError and error.errno is None)


@contextmanager
def user_errors(action: str, uri: str) -> Iterator[None]:
    """Raises errors of storage as UserError. `action` is the verb of the sentence: "cannot <action> <uri>: ..."."""
    try:
        yield
    except _ERRORS as error:
        raise explained(action, uri, error) from error
