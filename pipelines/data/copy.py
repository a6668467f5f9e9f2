"""`copy` writes the rows of a data set, with the images that it refers to, into a data set that stands alone."""

from collections.abc import Mapping
from typing import Any, TypedDict

import pyarrow as pa

from pipelines.config.base import SPLITS, Split
from pipelines.config.commands import CopyConfig
from pipelines.data import dataset, packing, row_groups
from pipelines.data.dataset import DataFile, Manifest
from pipelines.data.packing import Shard
from pipelines.data.row_groups import SplitFiles
from pipelines.data.versions import COLUMNS, LABELS_SCHEMA
from pipelines.run import claims
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session

MAY_DIFFER = ("base",)
"""Options that change no row and may differ when the command is repeated."""


class CopyResult(TypedDict):
    """The result of `copy`."""

    out: str
    num_rows: dict[Split, int]


def run(config: CopyConfig) -> CopyResult:
    """Copies the data set, or returns the result of an earlier run with it."""
    manifest = dataset.read_manifest(config.data, config.base)
    claim = ("copy", config, config.out, {"data": manifest.digest}, MAY_DIFFER)
    claims.find_claim(*claim)
    if not dataset.is_complete(config.out):
        with claims.claim_output(*claim):
            if not dataset.is_complete(config.out):
                with ray_session(Needs(cpus=1), manifest.inputs(config.data)):
                    build(config, manifest)
    return {"out": config.out, "num_rows": dataset.read_manifest(config.out).num_rows()}


def summary(result: CopyResult) -> str:
    counts = ", ".join(f"{rows} {split}" for split, rows in result["num_rows"].items())
    return f"copied {counts} rows to {result['out']}"


def build(config: CopyConfig, manifest: Manifest) -> None:
    """Writes each file in a task of its own, then the tables of problems, and commits the copy."""
    sources = {split: row_groups.open_split(config.data, manifest, split) for split in SPLITS}
    shards = [
        Shard(split, number, [number, file.sha256])
        for split in SPLITS
        for number, file in enumerate(manifest.splits.get(split, ()))
    ]

    def write(shard: Shard) -> dict[str, Any]:
        file = copied_file(config.out, shard, sources[shard.split], manifest.rows_per_group)
        num_rejected = manifest.splits[shard.split][shard.number].num_rejected
        return {"split": shard.split, "file": file.model_copy(update={"num_rejected": num_rejected}).model_dump()}

    files: Mapping[Split, list[DataFile]] = {split: [] for split in SPLITS}
    for answer in packing.map_shards(config.out, shards, write, "copied"):
        files[answer["split"]].append(DataFile.model_validate(answer["file"]))
    packing.write_problems(config.out, packing.REMARKS, packing.read_problems(config.data, packing.REMARKS))
    lineage = {
        "command": "copy",
        "data": config.data,
        "data_digest": manifest.digest,
        "origins": manifest.origins,
    }
    packing.write_manifest(
        config.out,
        manifest.label_taxonomy,
        files,
        packing.read_problems(config.data, packing.QUARANTINE),
        lineage,
        rows_per_group=manifest.rows_per_group,
        remarks=manifest.remarks,
        ignored=manifest.ignored,
    )


def copied_file(out: str, shard: Shard, source: SplitFiles, rows_per_group: int) -> DataFile:
    """Writes the file of a shard with all columns of its rows: scores of `relabel` are kept."""
    names = row_groups.columns_of_file(source, shard.number)
    fields = [*COLUMNS, *(field for field in LABELS_SCHEMA if field.name not in COLUMNS.names)]
    schema = pa.schema([field for field in fields if field.name in names])
    rows = row_groups.rows_of_file(source, shard.number, schema.names)
    file = dataset.write_file(out, shard.name, rows, rows_per_group, schema)
    assert file is not None, "each file of a data set has rows"
    return file
