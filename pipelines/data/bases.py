"""References to files: a version of a data set names files of other data sets, its bases, in place of copying them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from pipelines import storage
from pipelines.errors import UserError

MANIFEST = "dataset.json"


class Strict(BaseModel):
    """The base of what a manifest holds: unknown keys are errors, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRef(Strict):
    """A Parquet file. `path` is relative to the folder of its data set and cannot lead out of it."""

    path: Annotated[str, Field(pattern=r"^(train|val|test)/[\w-]+\.parquet$")]
    num_bytes: PositiveInt
    sha256: str
    base: Annotated[NonNegativeInt | None, Field(exclude_if=lambda value: value is None)] = None
    """Index of the data set that holds the file, in the bases of the manifest; None: the manifest's own."""


class Base(Strict):
    """A data set whose files a version refers to: its folder and the digest in its manifest."""

    uri: Annotated[str, Field(pattern=r"^(/|s3://.)")]
    digest: str


def manifest_uri(dataset: str) -> str:
    """The URI of the manifest of a data set."""
    return storage.join(dataset, MANIFEST)


def moved_bases(uris: Sequence[str], known: Iterable[Base]) -> dict[str, str]:
    """The folders `uris`, given with `--base`, by the digest of the base that each replaces.

    Raises UserError if one is no data set, or has the digest of none of the known bases.
    """
    digests, found = {base.digest for base in known}, {}
    for uri in uris:
        digest = _digest_at(uri)
        if digest is None:
            raise UserError(f"--base {uri} is not a data set: it has no {MANIFEST}")
        if digest not in digests:
            raise UserError(f"--base {uri} is none of the data sets that --data refers to; omit it")
        found[digest] = uri
    return found


def located(dataset: str, bases: Sequence[Base], moved: Mapping[str, str], used: set[int]) -> tuple[Base, ...]:
    """The bases of a data set where they are now. Those that are `used` are looked at, one request each.

    Raises UserError if one of them is gone, or if another data set has taken its place.
    """
    for number in sorted(used):
        base = bases[number]
        found = base.digest if base.digest in moved else _digest_at(base.uri)
        if found is None:
            raise UserError(
                f"{dataset} refers to files of {base.uri}, where no data set is; if it has moved, name its folder with "
                "--base"
            )
        if found != base.digest:
            raise UserError(
                f"{dataset} refers to files of {base.uri}, which now holds another data set; if the one with digest "
                f"{base.digest[:12]} has moved, name its folder with --base"
            )
    return tuple(base.model_copy(update={"uri": moved.get(base.digest, base.uri)}) for base in bases)


def _digest_at(uri: str) -> str | None:
    """The digest in the manifest of a data set; None if there is no data set."""
    content = storage.find_json(manifest_uri(uri))
    return None if content is None else str(content.get("digest"))
