"""Reads of many objects at once: on S3 each request takes long, and many of them at the same time hardly longer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from pipelines.errors import UserError
from pipelines.storage.causes import credentials_problem
from pipelines.storage.uris import explained, filesystem

_prefetched: ContextVar[Mapping[str, bytes | FileNotFoundError]] = ContextVar("prefetched", default={})  # noqa: B039


def in_one_request(uri: str) -> dict[str, int]:
    """Options of s3fs without which it asks for the size of each object before it reads it."""
    return {"max_concurrency": 1} if uri.startswith("s3://") else {}


def _read_all(uris: Sequence[str]) -> list[bytes | Exception]:
    """The whole objects, or the error of each one, read concurrently on S3."""
    if not uris:
        return []
    fs, _ = filesystem(uris[0])
    paths = [filesystem(uri)[1] for uri in uris]
    found: list[bytes | Exception] = fs.cat_ranges(paths, None, None, on_error="return", **in_one_request(uris[0]))
    return found


def read_many(uris: Sequence[str]) -> list[bytes | UserError]:
    """The whole objects, read concurrently on S3. A missing or forbidden object is replaced by a UserError.

    Raises UserError if the storage itself fails, because then it is unknown whether the object exists, and if it
    refuses the credentials, which is no fault of an object.
    """
    results: list[bytes | UserError] = []
    for uri, data in zip(uris, _read_all(uris), strict=True):
        faults = (FileNotFoundError, PermissionError) if uri.startswith("s3://") else OSError
        if isinstance(data, Exception) and (not isinstance(data, faults) or credentials_problem(data)):
            raise explained("read", uri, data) from data
        results.append(explained("read", uri, data) if isinstance(data, Exception) else data)
    return results


@contextmanager
def prefetched(uris: Sequence[str]) -> Iterator[None]:
    """Reads the objects concurrently. In the `with` block `exists` and `read_bytes` know them without a request.

    The block sees each object as it was at the beginning. An object that could not be read for another reason than that
    it is missing is requested as usual.
    """
    found = zip(uris, _read_all(uris), strict=True)
    read = {uri: data for uri, data in found if isinstance(data, bytes | FileNotFoundError)}
    token = _prefetched.set({**_prefetched.get(), **read})
    try:
        yield
    finally:
        _prefetched.reset(token)


def known(uri: str) -> bytes | FileNotFoundError | None:
    """The content that `prefetched` read at `uri`, or its error; None for other objects and outside of the block."""
    return _prefetched.get().get(uri)
