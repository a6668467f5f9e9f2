"""Listings of whole trees, page by page, so that their length does not matter."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.storage.uris import filesystem, user_errors

_PAGE = 1000
_NUM_THREADS = 16
"""Number of prefixes of S3 that are listed at once."""
_MAX_DEPTH = 3
"""Number of levels of folders that are listed apart from each other."""
_MAX_FOLDERS = 64
"""Largest number of folders of one level that are listed apart: small folders would each cost a request."""


def list_files(uri: str) -> list[str]:
    """The sorted URIs of all objects below the folder `uri`; only `uri` itself if it is an object.

    Follows symbolic links of local files and folders. Raises UserError if `uri` does not exist or a folder is
    forbidden.
    """
    return sorted(chain.from_iterable(list_pages(uri)))


def list_pages(uri: str) -> Iterator[Sequence[str]]:
    """Yields the URIs of `list_files` in pages, in no order. Large folders of S3 are listed at the same time.

    On S3 there is about one request for each 1,000 objects.
    """
    fs, path = filesystem(uri)
    with user_errors("list", uri):
        if not uri.startswith("s3://"):
            yield from _local_pages(Path(path))
            return
        is_empty = True
        for names in _s3_pages(fs, path):
            is_empty = False
            yield names
        if is_empty:
            if not fs.isfile(path):
                raise FileNotFoundError(uri)
            yield [f"s3://{path}"]


def _local_pages(path: Path) -> Iterator[list[str]]:
    """Lists names only. fsspec would also query the status of each file, which takes several times as long."""
    if not path.is_dir():
        path.stat()  # raises FileNotFoundError if there is no such file
        yield [str(path)]
        return
    folders = [str(path)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                while page := list(islice(entries, _PAGE)):
                    below = [entry.name for entry in page if _is_folder(entry)]
                    folders += [f"{folder}/{name}" for name in below if not _leads_back(Path(folder), name)]
                    yield [f"{folder}/{entry.name}" for entry in page if not _is_folder(entry)]
        except PermissionError:
            raise  # the files of a forbidden folder would be missing in silence
        except OSError:
            continue  # folders may vanish while they are listed


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself


def _leads_back(folder: Path, name: str) -> bool:
    """True if the entry is a link to a folder on the way to it, which would be listed without an end."""
    if not (folder / name).is_symlink():
        return False
    target = (folder / name).resolve()
    return any(above.resolve() == target for above in (folder, *folder.parents))


class _Request(NamedTuple):
    """One page of the keys below a prefix; `by_folder` gives keys and folders of this level only."""

    prefix: str
    depth: int = 0
    by_folder: bool = False
    token: str | None = None


def _s3_pages(fs: Any, path: str) -> Iterator[list[str]]:
    """Yields the keys below a folder. A folder of more than one page is divided into its folders."""
    bucket, _, key = path.partition("/")

    def ask(request: _Request) -> tuple[list[str], list[_Request]]:
        """The keys of a page, and the requests that it leads to."""
        options = {"Delimiter": "/"} if request.by_folder else {}
        token = {"ContinuationToken": request.token} if request.token else {}
        page = fs.call_s3("list_objects_v2", fs.req_kw, Bucket=bucket, Prefix=request.prefix, **options, **token)
        is_first, following = request.token is None, page.get("NextContinuationToken")
        if is_first and following and not request.by_folder and request.depth < _MAX_DEPTH:
            return [], [request._replace(by_folder=True)]
        folders = [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
        if is_first and len(folders) > _MAX_FOLDERS:
            return [], [_Request(request.prefix, _MAX_DEPTH)]
        # A folder that was made in a web console is an empty object with the name of the prefix.
        names = [f"s3://{bucket}/{e['Key']}" for e in page.get("Contents", []) if not e["Key"].endswith("/")]
        more = [_Request(folder, request.depth + 1) for folder in folders]
        return names, [*more, request._replace(token=following)] if following else more

    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        pending: set[Future[tuple[list[str], list[_Request]]]] = {
            threads.submit(ask, _Request(f"{key}/" if key else ""))
        }
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                names, requests = future.result()
                pending |= {threads.submit(ask, request) for request in requests}
                if names:
                    yield names
