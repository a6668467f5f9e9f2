"""The one S3 client of the project: pyarrow's reads and Ray Train's uploads go through it too.

A request that fails because the server is away, or in trouble, is tried again until the server has been away for
PATIENCE_SECONDS. Retries are s3fs' alone: botocore's standard ones share a quota among all requests of a client,
which concurrent reads use up within the first seconds of an outage.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

import s3fs
from botocore.exceptions import ClientError, EndpointConnectionError
from botocore.exceptions import ConnectionError as ConnectionFailure
from s3fs.core import set_custom_error_handler

logger = logging.getLogger(__name__)
PATIENCE_SECONDS = 90.0
_LONGEST_WAIT = 15.0
"""Between two tries of s3fs, whose waits grow from 0.1 s by a factor of 1.7."""
_OPTIONS: Mapping[str, Any] = {
    # Listings change under us: other workers write to the same folders.
    "use_listings_cache": False,
    # Row groups are read one by one in a shuffled order: a read-ahead would fetch many times what is used.
    "default_cache_type": "none",
    "config_kwargs": {
        "retries": {"total_max_attempts": 1},
        "connect_timeout": 10,
        "read_timeout": 30,
        "max_pool_connections": 32,
    },
}


class PatientS3FileSystem(s3fs.S3FileSystem):  # type: ignore[misc]
    """s3fs with enough tries to outlast PATIENCE_SECONDS; `_may_pass` decides when to give up."""

    retries = 16

    async def set_session(self, *args: Any, **kwargs: Any) -> Any:
        """The connected client."""
        connected = await super().set_session(*args, **kwargs)
        connected.meta.events.register("after-call.s3", _log_slow_down, unique_id="slow-down")
        return connected


class _Outage:
    """When the server was last found away, and since when; errors that are far apart are different outages."""

    began = ended = -1e9

    def seconds(self) -> float:
        """How long it has lasted, with this moment's error."""
        now = time.monotonic()
        if now - self.ended > 2 * _LONGEST_WAIT:
            self.began = now
        self.ended = now
        return now - self.began


_outage = _Outage()


def _is_retryable(error: Exception) -> bool:
    """Whether s3fs should try a failed request again."""
    if isinstance(error, ClientError):
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) < 500:
            return False
    elif not isinstance(error, EndpointConnectionError | ConnectionFailure):
        return False
    return _outage_seconds(error) < PATIENCE_SECONDS


def _log_slow_down(parsed: Mapping[str, Any], **_: Any) -> None:
    """s3fs tries again after SlowDown, without asking and without a word."""
    error = parsed.get("Error", {})
    if error.get("Code") == "SlowDown":
        _outage_seconds(f"SlowDown: {error.get('Message')}")


def _outage_seconds(error: object) -> float:
    """Tells of the first error of an outage; how long it has lasted."""
    seconds = _outage.seconds()
    if seconds == 0:
        logger.warning("the object store does not answer (%s); trying again for %.0f s", error, PATIENCE_SECONDS)
    return seconds


set_custom_error_handler(_is_retryable)


def filesystem() -> s3fs.S3FileSystem:
    """The client; credentials and endpoint come from the standard AWS variables and profiles."""
    return PatientS3FileSystem(**_OPTIONS)
