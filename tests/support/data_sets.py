"""Helpers that read rows of data sets and configure `ingest`."""

import numpy as np

from pipelines.config.commands import IngestConfig
from pipelines.data import dataset, row_groups
from pipelines.data.row_groups import Names, SplitFiles


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


def split_files(uris, sizes, groups, taxonomy=None, digest=""):
    """A split whose files hold images and labels."""
    names, sizes = Names(uris), np.asarray(sizes, np.int64)
    return SplitFiles(
        files=names,
        file_bytes=sizes,
        image_files=names,
        image_bytes=sizes,
        groups=groups,
        taxonomy=taxonomy,
        digest=digest,
    )
