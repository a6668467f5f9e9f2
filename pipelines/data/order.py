"""The order of rows: where each row of a split lies, and which row of an epoch comes when.

Both follow by arithmetic from the numbers of rows in the files, so nothing here has the length of the split. The row
groups that are full come first in an epoch: a keyed permutation, which is evaluated at single numbers, shuffles them.
The short ones, at most one for each file, follow in an order of their own. So a chunk of whole row groups begins where
a row group begins. Within a chunk the rows are shuffled.

A position is the number of a row in this sequence. It does not depend on the number of workers (see `shares`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
_ROUNDS = 8
"""Number of rounds of the permutation. Four rounds of a Feistel network with random functions are a pseudo-random
permutation (Luby and Rackoff, 1988); the functions here are only mixed well."""
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
"""Shifts and factors of the finalizer of SplitMix64."""


class RowRange(NamedTuple):
    """Rows `start` to before `stop` of the row group `group` (its number in the file) of file `file`, from 0."""

    file: int
    group: int
    start: int
    stop: int


def fold_of(group: Any, num_folds: int) -> Any:
    """The folds, counted from 1, of row groups with these numbers in the split, counted from 0."""
    return group % num_folds + 1


@dataclass(frozen=True, eq=False)
class Groups:
    """The row groups of a split, numbered from 0 in the order of the files. Those of the held-out fold are not read.

    All arrays have one value for each file, and most of them one more: value i belongs to what lies before file i.
    """

    file_rows: Integers
    rows_per_group: int
    """Number of rows in every row group; the last one of a file may have fewer."""
    held_out: tuple[int, int] | None = None
    """(k, K) with k from 1: the row groups k, k + K, k + 2K, ..., counted from 1, are not read. None: all are read."""

    @cached_property
    def _before(self) -> Integers:
        """The number of row groups, held-out ones included."""
        return _sums(-(-self.file_rows // self.rows_per_group))

    @cached_property
    def _read_before(self) -> Integers:
        """The number of row groups that are read."""
        return np.asarray(self._read_below(self._before))

    @cached_property
    def _full_before(self) -> Integers:
        """The number of full row groups that are read."""
        first = self._before[:-1]
        return _sums(self._read_below(first + self.file_rows // self.rows_per_group) - self._read_below(first))

    @cached_property
    def _rows_before(self) -> Integers:
        """The number of rows that are read."""
        rows = np.diff(self._full_before) * self.rows_per_group
        rows[self._short_files] += self.file_rows[self._short_files] % self.rows_per_group
        return _sums(rows)

    @cached_property
    def _short_files(self) -> Integers:
        """The numbers of the files whose last row group is short and read."""
        is_read = np.diff(self._read_before) > np.diff(self._full_before)
        return np.flatnonzero(is_read)

    def _read_below(self, number: Any) -> Any:
        """The number of row groups below `number` that are read."""
        if self.held_out is None:
            return number
        fold, num_folds = self.held_out
        return number - (number + num_folds - fold) // num_folds

    def _number(self, index: Any) -> Any:
        """The numbers in the split of the row groups that are read, given by their index among these."""
        if self.held_out is None:
            return index
        fold, num_folds = self.held_out
        blocks, places = np.divmod(index, max(1, num_folds - 1))
        return blocks * num_folds + places + (places >= fold - 1)

    @property
    def num_groups(self) -> int:
        """The number of row groups in the split, held-out ones included."""
        return int(self._before[-1])

    @property
    def num_rows(self) -> int:
        """The number of rows that are read."""
        return int(self._rows_before[-1])

    @property
    def num_full(self) -> int:
        """The number of full row groups that are read."""
        return int(self._full_before[-1])

    @property
    def short_rows(self) -> Integers:
        """The numbers of rows of the short row groups that are read."""
        return self.file_rows[self._short_files] % self.rows_per_group

    def first_of_file(self, file: int) -> int:
        """The number of the first row group of a file, held-out ones included. The number of files gives their end."""
        return int(self._before[file])

    def of_file(self, file: int) -> range:
        """The numbers of the row groups of a file, held-out ones included."""
        return range(self.first_of_file(file), self.first_of_file(file + 1))

    def whole(self, number: int) -> RowRange:
        """All rows of the row group `number`."""
        file = _file_of(self._before, number)
        group = number - int(self._before[file])
        rows = min(self.rows_per_group, int(self.file_rows[file]) - group * self.rows_per_group)
        return RowRange(file, group, 0, rows)

    def full(self, index: int) -> RowRange:
        """All rows of a full row group that is read, given by its index among these."""
        file = _file_of(self._full_before, index)
        return self.whole(int(self._number(self._read_before[file] + index - self._full_before[file])))

    def short(self, index: int) -> RowRange:
        """All rows of a short row group that is read, given by its index among these."""
        return self.whole(int(self._before[self._short_files[index] + 1]) - 1)

    def index_of_row(self, row: int) -> int:
        """The index of the row group of a row, both counted among those that are read."""
        file = _file_of(self._rows_before, row)
        return int(self._read_before[file]) + (row - int(self._rows_before[file])) // self.rows_per_group

    def first_row(self, index: int) -> int:
        """The number of rows in the row groups before the one with this index among those that are read."""
        if index >= self._read_before[-1]:
            return self.num_rows
        file = _file_of(self._read_before, index)
        return int(self._rows_before[file] + (index - self._read_before[file]) * self.rows_per_group)

    def locate(self, start: int, stop: int) -> list[RowRange]:
        """The parts of row groups that hold the rows `start` to before `stop`, in order."""
        found = []
        for index in range(self.index_of_row(start), self.index_of_row(stop - 1) + 1) if stop > start else ():
            file, group, _, rows = self.whole(int(self._number(index)))
            first = self.first_row(index)
            found.append(RowRange(file, group, max(0, start - first), min(rows, stop - first)))
        return found


def _sums(counts: Integers) -> Integers:
    """The sums of the counts before each place, and of all."""
    return np.concatenate([[0], np.cumsum(counts)])


def _file_of(before: Integers, number: int) -> int:
    return int(np.searchsorted(before, number, side="right")) - 1


def permuted(numbers: Integers, length: int, key: tuple[int, ...]) -> Integers:
    """The values of a permutation of 0 .. length - 1, which `key` chooses, at some numbers.

    A Feistel network over the pairs of quotient and remainder permutes a few numbers more than `length`. Values that
    are too large are permuted again ("cycle walking"; Black and Rogaway, 2002).
    """
    remainders = math.isqrt(max(0, length - 1)) + 1
    sides = -(-length // remainders), remainders
    keys = [np.uint64(word) for word in np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)]
    values = _network(numbers.astype(np.uint64), sides, keys)
    while (outside := values >= length).any():
        values[outside] = _network(values[outside], sides, keys)
    return values.astype(np.int64)


def _network(numbers: Words, sides: tuple[int, int], keys: Sequence[np.uint64]) -> Words:
    halves, sizes = [*np.divmod(numbers, np.uint64(sides[1]))], [np.uint64(side) for side in sides]
    for number, key in enumerate(keys):
        changed = number % 2
        halves[changed] = (halves[changed] + _mixed(halves[1 - changed] ^ key) % sizes[changed]) % sizes[changed]
    return np.asarray(halves[0] * sizes[1] + halves[1])


def _mixed(values: Words) -> Words:
    for shift, factor in _MIX:
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values


class PlacedRange(NamedTuple):
    """A part of a row group, and the positions of its rows."""

    rows: RowRange
    positions: Integers


@dataclass(frozen=True, eq=False)
class EpochOrder:
    """The sequence of the rows of one epoch, which only `seed`, `epoch` and `chunk_rows` decide."""

    groups: Groups
    seed: int
    epoch: int
    chunk_rows: int

    def chunk_of(self, position: int) -> tuple[int, int]:
        """The first position of the chunk that holds a position, and the position after its last."""
        start = position // self.chunk_rows * self.chunk_rows
        return start, min(start + self.chunk_rows, self.groups.num_rows)

    def pieces(self, start: int, stop: int) -> Iterator[PlacedRange]:
        """Yields the parts of row groups that hold the positions `start` to before `stop`, which lie in one chunk.

        A part may hold rows at other positions too. Parts without a row that is wanted are left out.
        """
        first, last = self.chunk_of(start)
        positions = first + np.argsort(np.random.default_rng([self.seed, self.epoch, first]).permutation(last - first))
        begin = 0
        for piece in self._unshuffled(first, last):
            placed = positions[begin : (begin := begin + piece.stop - piece.start)]
            if ((placed >= start) & (placed < stop)).any():
                yield PlacedRange(piece, placed)

    def _unshuffled(self, first: int, last: int) -> Iterator[RowRange]:
        """Yields the parts of row groups that hold the rows `first` to before `last` before chunks are shuffled."""
        size, num_full = self.groups.rows_per_group, self.groups.num_full
        numbers = np.arange(first // size, min(-(-last // size), num_full))
        if len(numbers):
            indices = permuted(numbers, num_full, (self.seed, self.epoch)).tolist()
            for number, index in zip(numbers.tolist(), indices, strict=True):
                yield _clipped(self.groups.full(index), number * size, first, last)
        if last > num_full * size:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.groups.short_rows))
            before = num_full * size + _sums(self.groups.short_rows[order])
            for place in range(max(0, _file_of(before, first)), int(np.searchsorted(before, last))):
                yield _clipped(self.groups.short(order[place]), int(before[place]), first, last)


def _clipped(piece: RowRange, begin: int, first: int, last: int) -> RowRange:
    """The rows of a whole row group that begins at `begin` of a sequence, from `first` to before `last` of it."""
    return piece._replace(start=max(0, first - begin), stop=min(piece.stop, last - begin))
