"""Divides the rows of an epoch among workers: chunks of one sequence in turns, the rest evenly.

Positions are those of `order`. Worker r of W takes the chunks r, r + W, ... while there is one for every worker. What
is left is divided evenly by rows, so all workers have the same number of batches. Each one leaves out the rows of an
incomplete batch, at its beginning, where other rows are in every epoch.

An epoch may go on from its middle, with another number of workers too: see `Share.remaining`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Positions(NamedTuple):
    """The positions `start` to before `stop`."""

    start: int
    stop: int


class Remaining(NamedTuple):
    """The positions of an epoch that are still to be taken: those from `start` on, and the `parts` before it."""

    start: int = 0
    """A multiple of the rows of a chunk, or the number of rows."""
    parts: tuple[Positions, ...] = ()


WHOLE_EPOCH = Remaining()


@dataclass(frozen=True, kw_only=True)
class Share:
    """The division of the remaining positions of an epoch among the workers."""

    num_rows: int
    """Number of rows in the epoch."""
    chunk_rows: int
    world_size: int
    step_rows: int
    """Number of rows of a worker in one optimizer step. A worker takes a multiple of it."""
    remaining: Remaining = WHOLE_EPOCH

    @property
    def num_taken(self) -> int:
        """The number of rows that each worker takes."""
        each = self._in_turns + self._num_divided // self.world_size
        return each // self.step_rows * self.step_rows

    @property
    def _num_turns(self) -> int:
        """The number of chunks that each worker takes in turns."""
        return (self.num_rows - self.remaining.start) // self.chunk_rows // self.world_size

    @property
    def _in_turns(self) -> int:
        """The number of rows in these chunks."""
        return self._num_turns * self.chunk_rows

    @property
    def _divided(self) -> tuple[Positions, ...]:
        """The positions that are divided evenly."""
        start = self.remaining.start + self._in_turns * self.world_size
        return *self.remaining.parts, Positions(start, self.num_rows)

    @property
    def _num_divided(self) -> int:
        return sum(part.stop - part.start for part in self._divided)

    def _num_owned(self, rank: int) -> int:
        """The number of rows of a worker, those that it leaves out included."""
        start, stop = (self._num_divided * part // self.world_size for part in (rank, rank + 1))
        return self._in_turns + stop - start

    def taken(self, rank: int, first: int, last: int) -> Iterator[Positions]:
        """Yields the positions of the rows `first` to before `last` that a worker takes, cut where a chunk ends.

        `last` is at most `num_taken`.
        """
        left_out = self._num_owned(rank) - self.num_taken
        yield from self._owned(rank, left_out + first, left_out + last)

    def _owned(self, rank: int, first: int, last: int) -> Iterator[Positions]:
        """Yields the positions of the rows `first` to before `last` of a worker, those that it leaves out included."""
        size, turns = self.chunk_rows, self._in_turns
        for turn in range(first // size, -(-min(last, turns) // size)):
            start = self.remaining.start + (turn * self.world_size + rank) * size
            yield Positions(start + max(0, first - turn * size), start + min(size, last - turn * size))
        begin = self._num_divided * rank // self.world_size - turns
        yield from self._cut(begin + max(first, turns), begin + last)

    def _cut(self, first: int, last: int) -> Iterator[Positions]:
        """Yields the rows `first` to before `last` of those that are divided, cut where a chunk ends."""
        begin = 0
        for part in self._divided:
            start, stop = (part.start + min(max(0, row - begin), part.stop - part.start) for row in (first, last))
            begin += part.stop - part.start
            while start < stop:
                end = min(stop, (start // self.chunk_rows + 1) * self.chunk_rows)
                yield Positions(start, end)
                start = end

    def left(self, num_taken: int) -> Remaining:
        """The remaining positions after each worker has taken this number of rows.

        The rows that the workers left out do not come again.
        """
        ranks = range(self.world_size)
        done = [self._num_owned(rank) - self.num_taken + num_taken for rank in ranks]
        turns = -(-max(done) // self.chunk_rows)
        if turns <= self._num_turns:
            owned = (self._owned(rank, done[rank], turns * self.chunk_rows) for rank in ranks)
            start = self.remaining.start + turns * self.chunk_rows * self.world_size
            return Remaining(start, (*_all(owned), *self.remaining.parts))
        owned = (self._owned(rank, done[rank], self._num_owned(rank)) for rank in ranks)
        return Remaining(self.num_rows, _all(owned))


def _all(owned: Iterable[Iterator[Positions]]) -> tuple[Positions, ...]:
    return tuple(part for parts in owned for part in parts)
