"""The packed data set: `<uri>/{train,val,test}/part-<number>-<digest>.parquet` and `dataset.json`, written last.

A data set is immutable once its `dataset.json` exists. Images and labels are stored encoded. Row groups are
small, so that a shuffled epoch can read each of them separately. A version of a data set holds files of labels only
and refers to the files of the images (see `versions`).
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Literal, Self, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeInt,
    PlainSerializer,
    PlainValidator,
    PositiveInt,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from dmlcsr.taxonomy import Taxonomy, parse_taxonomy
from pipelines import storage
from pipelines.config.base import Split
from pipelines.data import bases, earlier_manifests
from pipelines.data.bases import MANIFEST as MANIFEST
from pipelines.data.bases import Base, FileRef, Strict
from pipelines.data.bases import manifest_uri as manifest_uri
from pipelines.errors import UserError

logger = logging.getLogger(__name__)
RECEIPTS = "receipts"
"""Folder of receipts, one per finished shard; deleted when the build is complete."""
ROWS_PER_GROUP = 16
"""Maximum number of rows in a row group: a few MB of 1024x1024 JPEGs. An epoch is shuffled by row groups."""
FORMAT_VERSION: Literal[4] = 4
"""Version of the manifest. Version 1 is that of release 0.1; it and version 2 hold the name of a published taxonomy.
Version 3 knows no bases: a relabelled version held the images, and each label before in a column `label_previous`."""
MAX_ROWS_PER_FILE = 10_000_000
"""Limit on the row counts in a manifest: a reader allocates memory for each row group before it opens a file."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.binary()),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("meta", pa.string(), nullable=False),
    ]
)


class Row(TypedDict):
    """One face crop. `label` is a PNG of uint8 ids (255 = ignore), or None if unlabelled; `meta` is a JSON object."""

    id: str
    image: bytes
    label: bytes | None
    height: int
    width: int
    meta: str


class DataFile(FileRef):
    """One file of a split. It holds the rows, or only their labels if `images` names the file of their images.

    Row groups of both files hold the same rows in the same order.
    """

    num_rows: Annotated[int, Field(gt=0, le=MAX_ROWS_PER_FILE)]
    """Number of rows in all. The place of a row is counted over these."""
    num_rejected: Annotated[NonNegativeInt, Field(exclude_if=lambda value: not value)] = 0
    """Number of rows of these that `relabel` could not use: they keep their place, and have no label."""
    images: Annotated[FileRef | None, Field(exclude_if=lambda value: value is None)] = None
    """File with the images of the rows; None: this file."""
    previous: Annotated[FileRef | None, Field(exclude_if=lambda value: value is None)] = None
    """File with the labels that `relabel` replaced; None: it replaced none, or it is of format 1 to 3."""

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if self.num_rejected > self.num_rows:
            raise ValueError("num_rejected is larger than num_rows")
        return self


def _taxonomy(value: object) -> Taxonomy | None:
    return value if value is None or isinstance(value, Taxonomy) else parse_taxonomy(value)


_Taxonomy = Annotated[
    Taxonomy | None, PlainValidator(_taxonomy), PlainSerializer(lambda value: value and value.to_dict())
]


class Manifest(Strict):
    """The content of `dataset.json`: the classes, the files of each split, the rejected samples, and the lineage."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    format_version: Literal[4] = FORMAT_VERSION
    label_taxonomy: Annotated[_Taxonomy, Field(alias="taxonomy")]
    """Classes of the labels; None if no row has a label."""
    rows_per_group: PositiveInt = ROWS_PER_GROUP
    splits: Mapping[Split, tuple[DataFile, ...]]
    bases: tuple[Base, ...] = ()
    """Data sets that hold files of this one, directly: no base of a base is looked up."""
    num_quarantined: NonNegativeInt = 0
    reasons: Mapping[str, int] = {}
    remarks: Mapping[str, int] = {}
    """Number of remarks about accepted rows, by reason."""
    ignored: Mapping[str, int] = {}
    """Number of files in the sources of `ingest` that no sample has, by suffix."""
    lineage: Mapping[str, Any] = {}
    relabelled: Mapping[str, Any] = {}
    """The changes that `relabel` made to the rows of `lineage["data"]`; empty for a data set of another command."""
    digest: str
    _uri: str = PrivateAttr("this data set")

    @model_validator(mode="after")
    def _bases_exist(self) -> Self:
        refs = (ref for file in self._files() for ref in (file, file.images, file.previous) if ref is not None)
        if any(ref.base is not None and ref.base >= len(self.bases) for ref in refs):
            raise ValueError("a file has a base that is not listed")
        return self

    def _files(self) -> Iterable[DataFile]:
        return (file for files in self.splits.values() for file in files)

    def num_rows(self) -> dict[Split, int]:
        """The number of usable rows of each split."""
        return {split: sum(file.num_rows - file.num_rejected for file in files) for split, files in self.splits.items()}

    def locate(self, uri: str, file: FileRef) -> str:
        """The URI of a file of this data set, which is at `uri`."""
        return storage.join(uri if file.base is None else self.bases[file.base].uri, file.path)

    def used_bases(self) -> set[int]:
        """The indices of the bases that hold images or labels; the labels before are no part of the rows."""
        refs = (ref for file in self._files() for ref in (file, file.images) if ref is not None)
        return {ref.base for ref in refs if ref.base is not None}

    def inputs(self, uri: str) -> list[str]:
        """The manifests of this data set, which is at `uri`, and of the bases that hold its rows."""
        return [manifest_uri(each) for each in (uri, *(self.bases[number].uri for number in sorted(self.used_bases())))]

    @property
    def origins(self) -> tuple[str, ...]:
        """The digests of the data sets that first held these images; relabelled versions have the same origins."""
        earlier = self.lineage.get("origin", self.digest)  # `relabel` of release 0.1 wrote one
        return tuple(map(str, self.lineage.get("origins", (earlier,))))

    @property
    def taxonomy(self) -> Taxonomy:
        """The classes of the labels. Raises UserError if no row has a label."""
        if self.label_taxonomy is None:
            raise UserError(
                f"the faces of {self._uri} have no labels; make a labelled version with `relabel --model MODEL --data "
                f"{self._uri} --out NEW` and use that"
            )
        return self.label_taxonomy


def digest_of(splits: Mapping[Split, Iterable[DataFile]]) -> str:
    """The sha256 of the names and contents of all files: equal digests mean equal rows in equal order."""
    lines = sorted(
        f"{file.path} {file.sha256}{f' {file.images.sha256}' if file.images else ''}\n"
        for files in splits.values()
        for file in files
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_file(
    dataset: str,
    stem: str,
    rows: Iterable[Mapping[str, Any]],
    rows_per_group: int = ROWS_PER_GROUP,
    schema: pa.Schema = SCHEMA,
) -> DataFile | None:
    """Writes rows to the Parquet file `dataset/<stem>-<digest>.parquet`, atomically, and returns its entry.

    Returns None and writes nothing if there are no rows. The digest is the first 12 hexadecimal digits of the sha256 of
    the content. So a late attempt on a node that was given up cannot write other content over a committed file. Equal
    rows give equal bytes. One row group is held in memory. The file is written beside its place, or for S3 to a
    temporary folder of this machine, before it is moved or uploaded.
    """
    num_rows, remaining = 0, iter(rows)
    folder = storage.join(dataset, stem).rpartition("/")[0]
    with storage.scratch_file(folder) as scratch:
        # Images and labels are compressed already: a codec, a dictionary or statistics would only cost time.
        with pq.ParquetWriter(
            str(scratch), schema, compression="none", use_dictionary=False, write_statistics=False
        ) as writer:
            while group := list(islice(remaining, rows_per_group)):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                num_rows += len(group)
        if not num_rows:
            return None
        with scratch.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        path, size = f"{stem}-{digest[:12]}.parquet", scratch.stat().st_size
        storage.move_file(scratch, storage.join(dataset, path))
    return DataFile(path=path, num_rows=num_rows, num_bytes=size, sha256=digest)


def read_manifest(dataset: str, base: Sequence[str] | None = None) -> Manifest:
    """Reads and checks the manifest. `base` holds the folders of bases that have moved.

    Raises UserError if the folder is not a finished data set of a known version, or if a base is gone.
    """
    return read_manifests([dataset], base)[0]


def read_manifests(datasets: Sequence[str], base: Sequence[str] | None = None) -> list[Manifest]:
    """Reads and checks the manifests of several data sets as `read_manifest` does. Each of `base` belongs to one."""
    found = [_read_manifest(uri) for uri in datasets]
    moved = bases.moved_bases(base or (), [each for manifest in found for each in manifest.bases])
    return [
        manifest.model_copy(update={"bases": bases.located(uri, manifest.bases, moved, manifest.used_bases())})
        for uri, manifest in zip(datasets, found, strict=True)
    ]


def _read_manifest(dataset: str) -> Manifest:
    uri = manifest_uri(dataset)
    content = storage.find_json(uri)
    if content is None:
        raise UserError(f"{dataset} is not a data set: it has no {MANIFEST}; make one with `ingest` or `synth`")
    if (version := content.get("format_version")) not in (1, 2, 3, FORMAT_VERSION):
        raise UserError(f"{uri} has format version {version!r}; this release reads 1 to {FORMAT_VERSION}")
    if version != FORMAT_VERSION:
        content = earlier_manifests.upgraded(dataset, uri, content)
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{uri} is damaged at {first['loc']}: {first['msg']}") from error
    manifest._uri = dataset
    return manifest


def is_complete(out: str, marker: str = MANIFEST) -> bool:
    """Returns True if the build at `out` is complete. Deletes receipts that a killed process left."""
    if not storage.exists(storage.join(out, marker)):
        return False
    delete_receipts(out)
    return True


def delete_receipts(out: str) -> None:
    """Deletes the receipts of a complete build. Failing that is a warning: the data set does not need it."""
    try:
        storage.delete_folder(storage.join(out, RECEIPTS))
    except UserError as error:
        logger.warning("%s; the data set is complete, and its receipts may be deleted at any time", error)


def finish_build(out: str, content: Mapping[str, Any], marker: str = MANIFEST) -> None:
    """Completes the build: writes the marker, which holds the lineage, then deletes the receipts."""
    storage.write_json(storage.join(out, marker), content)
    delete_receipts(out)
