"""Data sets of a few bytes, and versions of them, without a model and without a cluster."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dmlcsr.taxonomy import LAPA
from pipelines.config.base import Split
from pipelines.data import dataset, packing, row_groups, versions
from pipelines.data.dataset import Manifest, Row
from pipelines.data.versions import LabelRow, References

ROWS_PER_GROUP = 2


def write_base(out: str, sizes: Mapping[Split, Sequence[int]]) -> Manifest:
    """Writes a data set whose splits have files of so many rows."""
    files = {
        split: [_base_file(out, split, number, rows) for number, rows in enumerate(of)] for split, of in sizes.items()
    }
    return packing.write_manifest(out, LAPA, files, [], {"command": "test"}, rows_per_group=ROWS_PER_GROUP)


def _base_file(out: str, split: Split, number: int, num_rows: int) -> dataset.DataFile:
    names = [f"{split}/{number}/{place}" for place in range(num_rows)]
    rows = [
        Row(id=name, image=f"image {name} of {out}".encode(), label=name.encode(), height=4, width=6, meta="{}")
        for name in names
    ]
    file = dataset.write_file(out, f"{split}/part-{number:05d}", rows, ROWS_PER_GROUP)
    assert file is not None
    return file


def write_version(
    out: str, data: str, splits: Collection[Split], bad: Collection[str] = (), base: Sequence[str] | None = None
) -> Manifest:
    """Writes a version of `data` whose labels in these splits are their ids and the name of the version.

    The rows with the ids `bad` could not be used.
    """
    before = dataset.read_manifest(data, base)
    references = References(data, before)
    files: dict[Split, list[dataset.DataFile]] = {}
    for split, old in before.splits.items():
        source = row_groups.open_split(data, before, split)
        files[split] = []
        for number, entry in enumerate(old):
            if split not in splits:
                files[split].append(references.keep(entry))
                continue
            ids = [row["id"] for row in row_groups.rows_of_file(source, number, ["id"])]
            rows = [versions.quarantined_row(name) if name in bad else _label_row(out, name) for name in ids]
            stem = f"{split}/part-{number:05d}"
            made = dataset.write_file(out, stem, rows, ROWS_PER_GROUP, versions.LABELS_SCHEMA)
            assert made is not None
            made = made.model_copy(update={"num_rejected": sum(name in bad for name in ids)})
            files[split].append(references.relabel(made, entry))
    more: dict[str, Any] = {"rows_per_group": ROWS_PER_GROUP, "bases": tuple(references.bases)}
    return packing.write_manifest(out, LAPA, files, [], {"command": "relabel", "data": data}, **more)


def _label_row(out: str, row_id: str) -> LabelRow:
    label = f"{row_id} of {out}".encode()
    scores = {"quality": 0.5, "class_quality": [0.5, None], "changed_fraction": 0.25, "confidence": 0.75}
    return LabelRow(id=row_id, label=label, rule="blend", **scores)  # type: ignore[typeddict-item]
