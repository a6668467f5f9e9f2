"""The only S3 client of the project. The reads of pyarrow and the uploads of Ray Train use it too.

A request that fails because the server is unreachable or overloaded is retried as long as `outages` says. Only s3fs
retries. Retries of botocore are switched off, because they share a quota among all requests of a client, which
concurrent reads use up in the first seconds of an outage.
"""

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import s3fs
from botocore.exceptions import ClientError, HTTPClientError
from s3fs.core import set_custom_error_handler

from pipelines.errors import UserError
from pipelines.storage import outages
from pipelines.storage.causes import error_code

_OPTIONS: Mapping[str, Any] = {
    # Cached listings would be outdated, because other workers write to the same folders.
    "use_listings_cache": False,
    # Row groups are read one by one in a shuffled order. A read-ahead would fetch many times the bytes that are used.
    "default_cache_type": "none",
    "config_kwargs": {
        "retries": {"total_max_attempts": 1},
        "connect_timeout": 10,
        "read_timeout": 30,
        "max_pool_connections": 32,
    },
}
_METADATA_SERVICE: Mapping[str, str] = {
    "AWS_METADATA_SERVICE_NUM_ATTEMPTS": "5",
    "AWS_METADATA_SERVICE_TIMEOUT": "5",
}
"""Patience with the metadata service of a machine, which gives credentials. By default botocore asks once, for 1 s, and
then says that there are no credentials."""
_NO_BULK_DELETE = frozenset(
    {"NotImplemented", "MethodNotAllowed", "MissingContentMD5", "InvalidRequest", "InvalidArgument"}
)
"""Error codes of stores that have no DeleteObjects, or want a digest for it that present clients do not send."""
_CAUSE_OF: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "head_object": ("get_object", {"Range": "bytes=0-0"}),
    "head_bucket": ("list_objects_v2", {"MaxKeys": 1}),
}
"""The smallest request that fails as a HEAD request does and names the cause: answers to HEAD have no body."""
_CA_BUNDLE = "AWS_CA_BUNDLE"


class PatientS3FileSystem(s3fs.S3FileSystem):  # type: ignore[misc]
    """s3fs with more retries than any patience allows. `outages.is_retryable` decides when to give up.

    Unlike in s3fs, all paths are literal: a `*` or `[` in a name is a character, not a pattern. Ray Train deletes old
    checkpoints through this class too.
    """

    @property
    def retries(self) -> int:
        """The number of tries of a request. Connections that break off are tried so often, whatever time it takes."""
        return outages.num_tries()

    async def set_session(self, *args: Any, **kwargs: Any) -> Any:
        """The connected client, with a handler that notes each answer."""
        connected = await super().set_session(*args, **kwargs)
        connected.meta.events.register("after-call.s3", _note_answer, unique_id="note-answer")
        return connected

    async def _call_s3(self, method: str, *options: Any, **kwargs: Any) -> Any:
        """Calls S3 as s3fs does. If a HEAD request fails without naming the cause, another request asks for it."""
        try:
            return await super()._call_s3(method, *options, **kwargs)
        except HTTPClientError as error:  # after all tries; around the read of a whole object s3fs would begin again
            raise ConnectionError(str(error)) from error
        except OSError as error:
            if method not in _CAUSE_OF or error_code(error) not in ("400", "403"):
                raise
            name, smallest = _CAUSE_OF[method]
            same = {key: kwargs[key] for key in ("Bucket", "Key", "VersionId") if key in kwargs}
            answer = await super()._call_s3(name, **same, **smallest)  # raises the cause
            if "Body" in answer:
                answer["Body"].close()
            raise

    async def _expand_path(
        self, path: str | Sequence[str], recursive: bool = False, maxdepth: int | None = None, **_: Any
    ) -> list[str]:
        """The given paths, and with `recursive` all objects below them. Nothing in them is a pattern."""
        given = [self._strip_protocol(one) for one in ([path] if isinstance(path, str) else path)]
        if not recursive:
            return sorted(given)
        found = {name for one in given for name in await self._find(one, maxdepth=maxdepth, withdirs=True)}
        found.update([one for one in given if one not in found and await self._exists(one)])
        if not found:
            raise FileNotFoundError(path)
        return sorted(found)

    async def _bulk_delete(self, pathlist: Sequence[str], **kwargs: Any) -> list[str]:
        """Deletes the objects in one request, or one by one where the store cannot do that."""
        try:
            deleted: list[str] = await super()._bulk_delete(pathlist, **kwargs)
        except (OSError, ClientError) as error:
            if not isinstance(error, NotImplementedError) and error_code(error) not in _NO_BULK_DELETE:
                raise
            await asyncio.gather(*[self._rm_file(path) for path in pathlist])
            return list(pathlist)
        return deleted


def _note_answer(parsed: Mapping[str, Any], **_: Any) -> None:
    """Remembers that the store has answered, and whether with SlowDown, for which s3fs does not ask `is_retryable`."""
    outages.answered()
    error = parsed.get("Error", {})
    if error.get("Code") == "SlowDown":
        outages.slowed_down(error.get("Message"))


set_custom_error_handler(outages.is_retryable)


def filesystem() -> s3fs.S3FileSystem:
    """The S3 client. Credentials and endpoint come from the standard AWS variables and profiles.

    Raises UserError if AWS_CA_BUNDLE names no file. botocore would say of each object that it does not exist.
    """
    bundle = os.environ.get(_CA_BUNDLE)
    if bundle and not Path(bundle).exists():
        raise UserError(f"there is no file {_CA_BUNDLE}={bundle} on {socket.gethostname()}; put it there, or unset it")
    for name, value in _METADATA_SERVICE.items():
        os.environ.setdefault(name, value)
    return PatientS3FileSystem(**_OPTIONS)
