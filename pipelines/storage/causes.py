"""Sentences about the endpoint or the credentials of the object store, for errors that these cause."""

import os
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from botocore.exceptions import ClientError, HTTPClientError, SSLError
from botocore.exceptions import ConnectionError as ConnectionFailure

_CREDENTIALS: Mapping[str, str] = {
    "ExpiredToken": "the credentials have expired; get new ones and give the same command again",
    "TokenRefreshRequired": "the credentials have expired; get new ones and give the same command again",
    "InvalidToken": "the store refuses the session token; check AWS_SESSION_TOKEN or the profile",
    "InvalidAccessKeyId": (
        "the store does not know the access key; check AWS_ACCESS_KEY_ID or AWS_PROFILE, and AWS_ENDPOINT_URL"
    ),
    "SignatureDoesNotMatch": (
        "the secret key does not belong to the access key; check AWS_SECRET_ACCESS_KEY or the profile"
    ),
    "RequestTimeTooSkewed": "the clock of {host} differs too much from the store's; set it",
}
"""Faults of the credentials of a whole process, by the error code of S3. AccessDenied is not among them: it
may concern a single object."""


def error_code(error: Exception) -> str | None:
    """The error code of S3 behind an error of botocore or s3fs; None if no answer of S3 caused it."""
    cause = error if isinstance(error, ClientError) else error.__cause__
    return cause.response.get("Error", {}).get("Code") if isinstance(cause, ClientError) else None


def system_error(error: ConnectionFailure | HTTPClientError) -> OSError | None:
    """The error of the operating system behind a failed connection; None if there is none."""
    cause = error.kwargs.get("error")  # of aiohttp
    found = getattr(cause, "os_error", None) or getattr(cause, "certificate_error", None)
    return found if isinstance(found, OSError) else None


def credentials_problem(error: Exception) -> str | None:
    """A sentence that says what is wrong with the credentials, and what to do; None if the error has another cause."""
    code = error_code(error)
    sentence = _CREDENTIALS.get(code or "")
    return sentence and f"{sentence.format(host=socket.gethostname())} ({code})"


def connection_problem(error: Exception) -> str | None:
    """A sentence that says why the endpoint does not answer, and what to check; None if the error has another cause."""
    if isinstance(error.__cause__, HTTPClientError):  # of an error of ours
        error = error.__cause__
    if not isinstance(error, ConnectionFailure | HTTPClientError):
        return None
    if not (address := error.kwargs.get("endpoint_url") or error.kwargs.get("proxy_url")):
        return None
    url = urlsplit(str(address))
    endpoint = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
    cause = system_error(error)
    if isinstance(error, SSLError):
        return (
            f"the certificate of {endpoint} is not accepted ({_text(cause or error)}); check AWS_ENDPOINT_URL, and "
            "give the certificate of a private authority in AWS_CA_BUNDLE"
        )
    if isinstance(cause, socket.gaierror):
        return f"the host of {endpoint} is unknown ({_text(cause)}); check AWS_ENDPOINT_URL and AWS_DEFAULT_REGION"
    reason = os.strerror(cause.errno) if cause and cause.errno else _text(cause or error)
    return (
        f"{endpoint} does not answer ({reason}); check AWS_ENDPOINT_URL (http or https, port), and that the store runs"
    )


def _text(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
