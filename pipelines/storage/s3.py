"""The only S3 client of the project. The reads of pyarrow and the uploads of Ray Train use it too.

A request that fails because the server is unreachable or overloaded is retried until the outage has lasted for
PATIENCE_SECONDS. Only s3fs retries. Retries of botocore are switched off, because they share a quota among all requests
of a client, which concurrent reads use up in the first seconds of an outage.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import s3fs
from botocore.exceptions import ClientError, EndpointConnectionError
from botocore.exceptions import ConnectionError as ConnectionFailure
from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker
from s3fs.core import set_custom_error_handler

logger = logging.getLogger(__name__)
PATIENCE_SECONDS = 90.0
"""Length of an outage after which its requests fail."""
_LONGEST_WAIT = 15.0
"""Longest pause of s3fs between two tries. The pauses grow from 0.1 s by a factor of 1.7."""
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
_TRANSIENT_STATUS_CODES = frozenset({408, 425, 429})
"""HTTP status codes below 500 of answers that pass. Of those from 500 on, all but 501 do: a store that lacks a feature
will not have it later."""
_TRANSIENT_ERROR_CODES = frozenset(
    {
        *TransientRetryableChecker._TRANSIENT_ERROR_CODES,
        *ThrottledRetryableChecker._THROTTLED_ERROR_CODES,
        "OperationAborted",  # a conflicting operation on the same object
    }
)
"""Error codes of answers that pass, whatever their status code: those of botocore, and of a conflict."""
_NO_BULK_DELETE = frozenset(
    {"NotImplemented", "MethodNotAllowed", "MissingContentMD5", "InvalidRequest", "InvalidArgument"}
)
"""Error codes of stores that have no DeleteObjects, or want a digest for it that present clients do not send."""


class PatientS3FileSystem(s3fs.S3FileSystem):  # type: ignore[misc]
    """s3fs with more retries than PATIENCE_SECONDS allow. `_is_retryable` decides when to give up.

    Unlike in s3fs, all paths are literal: a `*` or `[` in a name is a character, not a pattern. Ray Train deletes old
    checkpoints through this class too.
    """

    retries = 16
    """The pauses of this many tries add up to 119 s, which is more than PATIENCE_SECONDS."""

    async def set_session(self, *args: Any, **kwargs: Any) -> Any:
        """The connected client, with a handler that logs SlowDown responses."""
        connected = await super().set_session(*args, **kwargs)
        connected.meta.events.register("after-call.s3", _log_slow_down, unique_id="slow-down")
        return connected

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
            cause = error if isinstance(error, ClientError) else error.__cause__
            code = cause.response.get("Error", {}).get("Code") if isinstance(cause, ClientError) else None
            if not isinstance(error, NotImplementedError) and code not in _NO_BULK_DELETE:
                raise
            await asyncio.gather(*[self._rm_file(path) for path in pathlist])
            return list(pathlist)
        return deleted


class _Outage:
    """The first and the last error of the present outage. Errors that are far apart belong to different outages."""

    began = ended = -1e9

    def seconds(self) -> float:
        """Adds an error at this moment and returns the seconds since the first error of the outage."""
        now = time.monotonic()
        if now - self.ended > 2 * _LONGEST_WAIT:
            self.began = now
        self.ended = now
        return now - self.began


_outage = _Outage()


def _is_retryable(error: Exception) -> bool:
    """True if s3fs should try a failed request again."""
    if isinstance(error, ClientError):
        if not _passes(error):
            return False
    elif not isinstance(error, EndpointConnectionError | ConnectionFailure):
        return False
    return _outage_seconds(error) < PATIENCE_SECONDS


def _passes(error: ClientError) -> bool:
    """True if the same request may succeed later: the store is overloaded, throttles, or had a fault of its own."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(error.response.get("Error", {}).get("Code")).rpartition(".")[2]  # as in KMS.ThrottlingException
    is_fault = status >= 500 and status != 501
    return is_fault or status in _TRANSIENT_STATUS_CODES or code in _TRANSIENT_ERROR_CODES


def _log_slow_down(parsed: Mapping[str, Any], **_: Any) -> None:
    """Logs a SlowDown response. After it s3fs retries without a call of `_is_retryable` and without a log line."""
    error = parsed.get("Error", {})
    if error.get("Code") == "SlowDown":
        _outage_seconds(f"SlowDown: {error.get('Message')}")


def _outage_seconds(error: object) -> float:
    """Adds an error to the outage and returns its length in seconds. Logs a warning at its first error."""
    seconds = _outage.seconds()
    if seconds == 0:
        logger.warning("the object store does not answer (%s); trying again for %.0f s", error, PATIENCE_SECONDS)
    return seconds


set_custom_error_handler(_is_retryable)


def filesystem() -> s3fs.S3FileSystem:
    """The S3 client. Credentials and endpoint come from the standard AWS variables and profiles."""
    for name, value in _METADATA_SERVICE.items():
        os.environ.setdefault(name, value)
    return PatientS3FileSystem(**_OPTIONS)
