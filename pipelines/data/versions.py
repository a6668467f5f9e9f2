"""Versions of a data set: files of labels only, row group by row group beside the files of the images."""

from typing import TypedDict

import pyarrow as pa

from pipelines.data.bases import Base, FileRef
from pipelines.data.dataset import SCHEMA, DataFile, Manifest

RULE = "rule"
QUARANTINED = "quarantined"
"""Rule of a row that `relabel` could not use. The row has no label and keeps its place."""
LABELS_SCHEMA = pa.schema(
    [
        SCHEMA.field("id"),
        SCHEMA.field("label"),
        pa.field("quality", pa.float32()),
        pa.field("class_quality", pa.list_(pa.float32())),
        pa.field("changed_fraction", pa.float32()),
        pa.field("confidence", pa.float32()),
        pa.field(RULE, pa.string(), nullable=False),
    ]
)
IMAGE_COLUMNS = frozenset(SCHEMA.names) - frozenset(LABELS_SCHEMA.names)
"""Columns that are in the file of the images."""
COLUMNS = SCHEMA.append(pa.field("label_previous", pa.binary())).append(LABELS_SCHEMA.field(RULE))
"""Columns whose types a reader relies on. Versions of format 1 to 3 hold each label before in `label_previous`."""


class LabelRow(TypedDict):
    """The new label of a row, and scores of the previous label and of the new one.

    `quality` (0 wrong .. 1) and `class_quality` (K values, None if the previous label has no pixel of the class) score
    the previous label; both are None if the row had no label. `changed_fraction` is the fraction of pixels that changed
    (0..1). `confidence` is the teacher's highest probability, as a mean over pixels (0..1). `rule` is the name of the
    policy that decided, `unlabelled` if the row had no label, or `quarantined` if the row could not be used: then all
    values but `id` and `rule` are None.
    """

    id: str
    label: bytes | None
    quality: float | None
    class_quality: list[float | None] | None
    changed_fraction: float | None
    confidence: float | None
    rule: str


def quarantined_row(row_id: str) -> LabelRow:
    """The row that keeps the place of one that cannot be used."""
    values = dict.fromkeys(LABELS_SCHEMA.names) | {"id": row_id, RULE: QUARANTINED}
    return LabelRow(**values)  # type: ignore[no-any-return, typeddict-item]


class References:
    """Refers to the files of a data set from a new version of it, and collects the bases of that version.

    The files are named directly: if the data set is itself a version, its bases become bases of the new one.
    """

    def __init__(self, uri: str, manifest: Manifest) -> None:
        self.bases: list[Base] = []
        self._manifest = manifest
        self._own = Base(uri=uri, digest=manifest.digest)

    def keep(self, file: DataFile) -> DataFile:
        """The entry of a file that the new version keeps as it is."""
        images = file.images and self._refer(file.images)
        return file.model_copy(update={"base": self._refer(file).base, "images": images, "previous": None})

    def relabel(self, labels: DataFile, before: DataFile) -> DataFile:
        """The entry of a file of new labels for the rows of the file `before`."""
        entries = {"images": self._refer(before.images or before), "previous": self._refer(before)}
        return labels.model_copy(update=entries)

    def _refer(self, file: FileRef) -> FileRef:
        base = self._own if file.base is None else self._manifest.bases[file.base]
        if base not in self.bases:
            self.bases.append(base)
        return FileRef(path=file.path, num_bytes=file.num_bytes, sha256=file.sha256, base=self.bases.index(base))


def with_previous_labels(manifest: Manifest) -> Manifest:
    """The data set with the files of the labels that `relabel` replaced, where they are files of their own."""
    splits = {split: tuple(map(_previous, files)) for split, files in manifest.splits.items()}
    return manifest.model_copy(update={"splits": splits})


def _previous(file: DataFile) -> DataFile:
    if file.previous is None:
        return file
    return file.model_copy(update=dict(file.previous))
