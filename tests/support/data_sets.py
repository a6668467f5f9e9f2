"""Helpers that read rows of data sets and configure `ingest`."""

from pipelines.config.commands import IngestConfig
from pipelines.data import dataset, row_groups


def rows_of(uri, split="train", base=None):
    """All rows of a split with all of their columns, whatever files hold them."""
    source = row_groups.open_split(str(uri), dataset.read_manifest(str(uri), base), split)
    return [
        row
        for file in range(len(source.files))
        for row in row_groups.rows_of_file(source, file, row_groups.columns_of_file(source, file))
    ]


def pairs(source, out, **more):
    return IngestConfig(format="pairs", taxonomy="celebamask_hq", source=str(source), out=str(out), **more)
