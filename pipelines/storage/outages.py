"""Patience with an object store that does not answer.

A store that has answered this process once may be away for PATIENCE_SECONDS. Before its first answer, the endpoint may
be mistyped: then a driver waits only for FIRST_ANSWER_SECONDS. A worker of Ray waits as long as always, because it may
start during an outage.
"""

import logging
import socket
import time

from botocore.exceptions import ClientError, SSLError
from botocore.exceptions import ConnectionError as ConnectionFailure
from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker

from pipelines.storage.causes import error_code, system_error

logger = logging.getLogger(__name__)
PATIENCE_SECONDS = 90.0
"""Length of an outage after which its requests fail."""
FIRST_ANSWER_SECONDS = 5.0
"""Length of an outage after which requests fail in a driver that the store has never answered."""
_LONGEST_WAIT = 15.0
"""Longest pause of s3fs between two tries in seconds. The pauses grow from 0.1 s by a factor of 1.7."""
TRIES = 16
"""Number of tries whose pauses add up to 119 s, which is more than PATIENCE_SECONDS."""
FIRST_ANSWER_TRIES = 7
"""Number of tries whose pauses add up to 5.7 s, for a driver that the store has never answered."""
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


class _Store:
    """Knowledge of this process about the object store: whether it has ever answered, and its present outage."""

    def __init__(self) -> None:
        self.has_answered = False
        self.may_be_mistyped = False
        self._began = self._ended = -1e9

    @property
    def is_doubtful(self) -> bool:
        """True if the endpoint may be mistyped."""
        return self.may_be_mistyped and not self.has_answered

    @property
    def patience(self) -> float:
        """Seconds after which requests of the present outage fail."""
        return FIRST_ANSWER_SECONDS if self.is_doubtful else PATIENCE_SECONDS

    def outage_seconds(self, error: object) -> float:
        """Adds an error at this moment and returns the seconds since the first error of the outage.

        Errors that are far apart belong to different outages. Logs a warning at the first error of each.
        """
        now = time.monotonic()
        if now - self._ended > 2 * _LONGEST_WAIT:
            self._began = now
            message = "the object store does not answer (%s); trying again for %.0f s"
            logger.warning(message, error, self.patience)
        self._ended = now
        return now - self._began


_store = _Store()


def doubt_endpoint() -> None:
    """Makes this process wait for the first answer of the store only FIRST_ANSWER_SECONDS, and for no unknown host."""
    _store.may_be_mistyped = True


def num_tries() -> int:
    """The number of times that s3fs tries a request."""
    return FIRST_ANSWER_TRIES if _store.is_doubtful else TRIES


def answered() -> None:
    """Says that the store has answered this process."""
    _store.has_answered = True


def slowed_down(message: object) -> None:
    """Adds a SlowDown answer to the outage. After it s3fs tries again without asking `is_retryable`."""
    _store.outage_seconds(f"SlowDown: {message}")


def is_retryable(error: Exception) -> bool:
    """True if s3fs should try a failed request again."""
    may_pass = _answer_passes(error) if isinstance(error, ClientError) else _connection_passes(error)
    return may_pass and _store.outage_seconds(error) < _store.patience


def _answer_passes(error: ClientError) -> bool:
    """True if the same request may succeed later: the store is overloaded, throttles, or had a fault of its own."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(error_code(error)).rpartition(".")[2]  # as in KMS.ThrottlingException
    is_fault = status >= 500 and status != 501
    return is_fault or status in _TRANSIENT_STATUS_CODES or code in _TRANSIENT_ERROR_CODES


def _connection_passes(error: Exception) -> bool:
    """True if the store may be connected to later. Unknown hosts may appear where services of a cluster start anew."""
    if not isinstance(error, ConnectionFailure):
        return False
    if _store.has_answered:
        return True
    is_unknown_host = getattr(system_error(error), "errno", None) == socket.EAI_NONAME
    return not isinstance(error, SSLError) and not (_store.may_be_mistyped and is_unknown_host)
