"""Helpers that read rows of data sets and configure `ingest`."""

import io

import pyarrow.parquet as pq

from pipelines import storage
from pipelines.config.commands import IngestConfig
from pipelines.data import dataset


def rows_of(uri, split="train"):
    files = dataset.read_manifest(str(uri)).splits[split]
    tables = [pq.read_table(io.BytesIO(storage.read_bytes(storage.join(str(uri), file.path)))) for file in files]
    return [row for table in tables for row in table.to_pylist()]


def pairs(source, out, **more):
    return IngestConfig(format="pairs", taxonomy="celebamask_hq", source=str(source), out=str(out), **more)
