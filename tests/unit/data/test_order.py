"""The sequence of the rows of an epoch: every row has one position, and chunks begin where row groups begin."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.order import EpochOrder, Groups, RowRange, fold_of, permuted

FILES = st.lists(st.integers(1, 40), min_size=1, max_size=12)
FOLDS = st.none() | st.integers(2, 5).flatmap(lambda folds: st.tuples(st.integers(1, folds), st.just(folds)))


def make_groups(files, rows_per_group=4, held_out=None):
    return Groups(np.array(files, np.int64), rows_per_group, held_out)


def rows_of(pieces):
    return [(piece.file, piece.group, row) for piece in pieces for row in range(piece.start, piece.stop)]


def read_by_hand(files, rows_per_group, held_out):
    """The row groups that are read, in order."""
    found = [
        RowRange(file, group, 0, min(rows_per_group, rows - group * rows_per_group))
        for file, rows in enumerate(files)
        for group in range(-(-rows // rows_per_group))
    ]
    if held_out is None:
        return found
    return [piece for number, piece in enumerate(found) if fold_of(number, held_out[1]) != held_out[0]]


def sequence(order):
    """(file, group, row) by position."""
    found = {}
    for start in range(0, order.groups.num_rows, order.chunk_rows):
        for piece in order.pieces(*order.chunk_of(start)):
            for position, row in zip(piece.positions.tolist(), rows_of([piece.rows]), strict=True):
                assert position not in found
                found[position] = row
    return [found[position] for position in range(order.groups.num_rows)]


@given(st.integers(1, 3000), st.integers(0, 2**32), st.integers(0, 100))
@settings(max_examples=200, deadline=None)
def test_a_permutation_takes_every_number_to_another_one(length, seed, epoch):
    numbers = np.arange(length)
    values = permuted(numbers, length, (seed, epoch))
    assert sorted(values.tolist()) == numbers.tolist()
    some = numbers[:: max(1, length // 7)]
    assert permuted(some, length, (seed, epoch)).tolist() == values[some].tolist()


def test_every_permutation_of_a_few_numbers_occurs_about_equally_often():
    found = Counter(tuple(permuted(np.arange(4), 4, (seed, 1)).tolist()) for seed in range(4800))
    assert len(found) == 24 and min(found.values()) > 120 and max(found.values()) < 280


@given(st.integers(50, 10**12), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_permutation_of_any_length_differs_between_epochs_and_seeds(length, seed):
    numbers = np.arange(50)
    keys = [(seed, 0), (seed, 1), (seed + 1, 0)]
    assert len({tuple(permuted(numbers, length, key).tolist()) for key in keys}) == 3


def test_numbers_of_a_permutation_are_unrelated_to_their_places():
    values = permuted(np.arange(20_000), 20_000, (0, 0))
    assert abs(np.corrcoef(values, np.arange(20_000))[0, 1]) < 0.03
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.03


@given(FILES, st.integers(1, 9), FOLDS)
@settings(max_examples=200, deadline=None)
def test_rows_in_order_are_those_of_the_files_without_the_held_out_fold(files, rows_per_group, held_out):
    groups = make_groups(files, rows_per_group, held_out)
    expected = rows_of(read_by_hand(files, rows_per_group, held_out))
    assert groups.num_rows == len(expected)
    assert rows_of(groups.locate(0, groups.num_rows)) == expected
    middle = len(expected) // 3
    assert rows_of(groups.locate(middle, len(expected) - middle)) == expected[middle : len(expected) - middle]


@given(FILES, st.integers(1, 9), FOLDS)
@settings(max_examples=100, deadline=None)
def test_row_groups_are_counted_over_all_files(files, rows_per_group, held_out):
    groups = make_groups(files, rows_per_group, held_out)
    everything = read_by_hand(files, rows_per_group, None)
    assert [groups.whole(number) for number in range(groups.num_groups)] == everything
    of_files = [groups.of_file(file) for file in range(len(files))]
    assert [number for numbers in of_files for number in numbers] == list(range(len(everything)))
    read = read_by_hand(files, rows_per_group, held_out)
    firsts = np.cumsum([0, *(piece.stop for piece in read)]).tolist()
    assert [groups.first_row(index) for index in range(len(read) + 1)] == firsts
    assert [groups.index_of_row(row) for row in firsts[:-1]] == list(range(len(read)))


@given(FILES, st.integers(1, 9), FOLDS, st.integers(1, 30), st.integers(0, 3), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_every_row_has_one_position(files, rows_per_group, held_out, chunk_rows, seed, epoch):
    groups = make_groups(files, rows_per_group, held_out)
    found = sequence(EpochOrder(groups, seed, epoch, chunk_rows))
    assert sorted(found) == rows_of(read_by_hand(files, rows_per_group, held_out))


def test_full_row_groups_come_in_the_order_of_seed_and_epoch():
    groups = make_groups([400])

    def row_groups_of(seed, epoch):
        return [piece.rows.group for piece in EpochOrder(groups, seed, epoch, 400).pieces(0, 400)]

    assert row_groups_of(0, 0) == row_groups_of(0, 0)
    assert row_groups_of(0, 0) != row_groups_of(0, 1)
    assert row_groups_of(0, 0) != row_groups_of(1, 0)


def test_short_row_groups_and_rows_of_a_chunk_come_in_the_order_of_seed_and_epoch():
    groups = make_groups([3] * 40)
    assert len({tuple(sequence(EpochOrder(groups, *key, 8))) for key in ((0, 0), (0, 1), (1, 0))}) == 3


@given(FILES, FOLDS, st.integers(1, 4), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_chunks_of_full_row_groups_hold_no_part_of_one(files, held_out, groups_per_chunk, epoch):
    groups = make_groups(files, 4, held_out)
    order = EpochOrder(groups, 0, epoch, 4 * groups_per_chunk)
    for start in range(0, groups.num_full * 4 - order.chunk_rows + 1, order.chunk_rows):
        pieces = [piece.rows for piece in order.pieces(*order.chunk_of(start))]
        assert [(piece.start, piece.stop) for piece in pieces] == [(0, 4)] * groups_per_chunk


@given(FILES, st.data())
@settings(max_examples=100, deadline=None)
def test_a_part_of_a_chunk_reads_no_row_group_in_vain(files, draws):
    order = EpochOrder(make_groups(files), 0, 0, 8)
    start = draws.draw(st.integers(0, order.groups.num_rows - 1))
    stop = draws.draw(st.integers(start + 1, order.chunk_of(start)[1]))
    wanted = [
        [position for position in piece.positions.tolist() if start <= position < stop]
        for piece in order.pieces(start, stop)
    ]
    assert all(wanted) and sorted(position for part in wanted for position in part) == list(range(start, stop))


@pytest.mark.parametrize(("rows", "files"), [(16_384, 6_104), (1_300, 76_924)])
def test_a_chunk_of_a_hundred_million_rows_is_found_without_a_list_of_them(rows, files):
    groups = Groups(np.full(files, rows), 16, (2, 5))
    order = EpochOrder(groups, 0, 3, 64)
    assert groups.num_rows > 8e7
    for start in (0, groups.num_rows // 2, groups.num_rows - 1):
        first, last = order.chunk_of(start)
        assert sum(len(piece.positions) for piece in order.pieces(first, last)) == last - first
    assert sum(array.nbytes for array in vars(groups).values() if isinstance(array, np.ndarray)) < 5e6
