"""The plan of an ordered pass, without Ray: which rows are in which chunk."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlcsr.weights import Preprocessing
from pipelines.data.order import Groups
from pipelines.data.ordered import OrderedRows
from tests.support.data_sets import split_files

FILES = st.lists(st.integers(1, 60), max_size=8)


def make_rows(files, rows_per_group, **share):
    counts = np.array(files, np.int64)
    source = split_files(map(str, files), counts, Groups(counts, rows_per_group), None, "")
    return OrderedRows(source=source, preprocessing=Preprocessing(size=32), **share)


@given(FILES, st.integers(1, 20), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_every_row_is_in_one_chunk_of_one_worker(files, rows_per_group, world_size):
    found, lengths = [], []
    for rank in range(world_size):
        rows = make_rows(files, rows_per_group, rank=rank, world_size=world_size)
        bounds = [rows.chunk_bounds(chunk) for chunk in range(rows.num_chunks)]
        assert all(0 < stop - start <= max(16, rows_per_group) for start, stop in bounds)
        lengths.append(sum(stop - start for start, stop in bounds))
        found += [row for start, stop in bounds for row in range(start, stop)]
    assert found == list(range(sum(files)))
    assert max(lengths) - min(lengths) <= 1


@given(FILES, st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_no_row_group_is_read_twice(files, rows_per_group):
    rows = make_rows(files, rows_per_group)
    pieces = [
        piece for chunk in range(rows.num_chunks) for piece in rows.source.groups.locate(*rows.chunk_bounds(chunk))
    ]
    assert pieces == [rows.source.groups.whole(number) for number in range(rows.source.groups.num_groups)]
