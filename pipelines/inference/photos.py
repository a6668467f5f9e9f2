"""The photos of `predict`: the names of their results, and their pixels."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from dmlcsr.image_files import BadSampleError, Pixels, read_image
from pipelines import storage
from pipelines.data.packing import SampleProblem
from pipelines.errors import UserError

RENAMED = "renamed"
"""Reason of a remark about a photo whose results do not have its name."""
_MAX_NAME_BYTES = 200
"""Longest part of a name. File systems allow 255 bytes, and an atomic write adds some to the suffix."""
_MAX_PATH_BYTES = 600
"""Longest name. Keys of S3 may have 1024 bytes, with the output before it and the class of a cut-out after it."""


class Photo(NamedTuple):
    """A photo that was read: the name of its results, and its pixels (H, W, 3) RGB."""

    name: str
    pixels: Pixels


def output_names(root: str, uris: Sequence[str]) -> list[str]:
    """The names of the photos' results: their paths below `root` without suffix, all different.

    The suffix is kept if two photos differ only in it. A part of a path that no storage can take as it is, because it
    is too long, is `..` or is not printable, is shortened and gets a digest.
    """
    paths = [PurePosixPath(_below(root, uri)) for uri in uris]
    whole, stems = Counter(paths), Counter(path.with_suffix("") for path in paths)
    names = []
    for uri, path in zip(uris, paths, strict=True):
        stem = path.with_suffix("")
        chosen = path if stems[stem] > 1 or stem in whole else stem
        name = "/".join(_safe(part) for part in chosen.parts)
        # Keys of S3 may differ in slashes only.
        is_usable = whole[path] == 1 and len(name.encode()) <= _MAX_PATH_BYTES
        names.append(name if is_usable else _shortened(uri))
    return names


def remarks(root: str, uris: Sequence[str], names: Sequence[str]) -> list[SampleProblem]:
    """A remark about each photo whose results do not have its name."""
    return [
        SampleProblem(source=uri, reason=RENAMED, detail=f"its results are named {name}")
        for uri, name in zip(uris, names, strict=True)
        if not _below(root, uri).startswith(name)
    ]


def _below(root: str, uri: str) -> str:
    return uri.removeprefix(root).lstrip("/") or PurePosixPath(uri).name


def _safe(part: str) -> str:
    is_usable = part != ".." and part.isprintable() and len(part.encode()) <= _MAX_NAME_BYTES
    return part if is_usable else _shortened(part)


def _shortened(name: str) -> str:
    """The letters and digits at the beginning of the last part of a name, and a digest of the whole name."""
    start = "".join(letter if letter.isalnum() else "_" for letter in name.rpartition("/")[2][:40])
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return f"{start}-{digest[:16]}"


def read_photos(root: str, items: Sequence[Sequence[str]]) -> tuple[list[Photo], list[SampleProblem]]:
    """Reads photos, given as (URI, name), at once; returns them, and the problems of those that cannot be used.

    Raises UserError if the storage fails, or if `root`, below which the photos were found, does not exist: then it
    is unknown which photos do.
    """
    photos, rejected = [], []
    for (uri, name), data in zip(items, storage.read_many([uri for uri, _ in items]), strict=True):
        if isinstance(data, UserError):
            if not storage.exists(root):
                raise UserError(f"{root} is no longer there, or not on every node; the same command continues")
            rejected.append(SampleProblem(source=uri, reason="unreadable", detail=str(data)))
            continue
        try:
            photos.append(Photo(name, read_image(data)))
        except BadSampleError as error:
            rejected.append(SampleProblem(source=uri, reason=error.reason, detail=str(error)))
    return photos, rejected
