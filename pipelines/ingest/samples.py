"""The samples of a listed source: tables on storage, in the order in which they are packed, and their splits.

The splits of a source by shares are exact: the hashes at the bounds are found by counting. So memory does not grow with
the number of samples, neither on the driver nor in a task.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.config.base import SPLITS, Split
from pipelines.config.commands import SplitShares
from pipelines.data.packing import SampleProblem
from pipelines.ingest.hashes import Hashes, Numbers, kth_smallest
from pipelines.ingest.tables import read_table

UNNAMED, DUPLICATE, UNUSABLE = -1, -2, -3
"""Numbers in the place of that of a split: no split is named, several samples have the id, or the id is not usable."""
_REASONS = {UNNAMED: "no_split", DUPLICATE: "duplicate_id", UNUSABLE: "bad_name"}
_DECISIVE = ["source", "split", "share"]
"""Columns that decide the split."""


def sample_schema(*columns: pa.Field) -> pa.Schema:
    """The schema of a table of samples whose items have these columns.

    `source` is the number of the source, `split` that of a split that names or lists give, UNNAMED or UNUSABLE, and
    `share` the place of the id in the order by which shares are divided.
    """
    decisive = [("source", pa.int32()), ("split", pa.int8()), ("share", pa.uint64())]
    return pa.schema([*decisive, *columns])


def number_of(split: Split | None) -> int:
    return UNNAMED if split is None else SPLITS.index(split)


class Samples(NamedTuple):
    """All samples of the sources. Tasks receive it, so it holds nothing per sample."""

    tables: tuple[str, ...]
    bounds: Mapping[int, tuple[int, ...]]
    """The hashes at which val and test begin, for each source that is divided by shares."""
    excluded: frozenset[int]
    """Values of `share` of ids that several samples have: none of these is packed."""
    counts: tuple[tuple[int, ...], ...]
    """Number of samples in each split, by table."""
    make_item: Callable[..., Any]
    """Makes an item, which JSON can hold, of the number of the source and the other columns of a row."""
    problem_of: Callable[[Any, str], SampleProblem]
    """Makes the problem of an item with a reason: `no_split`, `duplicate_id` or `bad_name`."""

    def num_rows(self) -> dict[Split, int]:
        """The number of samples in each split."""
        return {split: sum(counts[number] for counts in self.counts) for number, split in enumerate(SPLITS)}

    def read(self, split: Split, start: int, stop: int) -> list[Any]:
        """The items of samples `start` to before `stop` of a split."""
        number, begin, items = SPLITS.index(split), 0, []
        for uri, counts in zip(self.tables, self.counts, strict=True):
            first, last = max(start - begin, 0), min(stop - begin, counts[number])
            if first < last:
                table = _table(uri)
                chosen = np.flatnonzero(self.numbers(table) == number)[first:last]
                items += self._items(table, chosen)
            begin += counts[number]
        return items

    def problems(self) -> Iterator[SampleProblem]:
        """The samples that no split has, and those whose id is not unique."""
        for uri, counts in zip(self.tables, self.counts, strict=True):
            table = _table(uri)
            if sum(counts) == table.num_rows:
                continue
            numbers = self.numbers(table)
            left = np.flatnonzero(numbers < 0)
            for item, number in zip(self._items(table, left), numbers[left].tolist(), strict=True):
                yield self.problem_of(item, _REASONS[number])

    def numbers(self, table: pa.Table) -> Numbers:
        """The number of the split of each row, or UNNAMED, DUPLICATE or UNUSABLE."""
        source, split, share = (table[name].to_numpy() for name in _DECISIVE)
        numbers: Numbers = split.astype(np.int64)
        for number, bounds in self.bounds.items():
            here = (source == number) & (split == UNNAMED)
            numbers[here] = np.searchsorted(np.array(bounds, np.uint64), share[here], side="right")
        if self.excluded:
            numbers[(split != UNUSABLE) & np.isin(share, np.array(sorted(self.excluded), np.uint64))] = DUPLICATE
        return numbers

    def _items(self, table: pa.Table, rows: npt.NDArray[np.intp]) -> list[Any]:
        chosen = table.drop_columns(["split", "share"]).take(pa.array(rows))
        return [self.make_item(*values) for values in zip(*(c.to_pylist() for c in chosen.columns), strict=True)]


@lru_cache(maxsize=2)
def _table(uri: str) -> pa.Table:
    """A table, cached: neighboring shards are in the same one."""
    return read_table(uri)


@lru_cache(maxsize=4)
def _decisive(uri: str) -> pa.Table:
    """The columns that decide the splits, cached: those of a small source are read once."""
    return read_table(uri, _DECISIVE)


def find_samples(
    tables: Sequence[str],
    by_shares: Iterable[int],
    shares: SplitShares,
    make_item: Callable[..., Any],
    problem_of: Callable[[Any, str], SampleProblem],
    excluded: frozenset[int] = frozenset(),
) -> Samples:
    """Divides the sources `by_shares`, and counts the samples of each split."""

    undivided = Samples(tuple(tables), {}, excluded, (), make_item, problem_of)

    def hashes(source: int) -> Iterator[Hashes]:
        for uri in tables:
            numbers, of_source, share = undivided.numbers(table := _decisive(uri)), table["source"], table["share"]
            yield share.to_numpy()[(of_source.to_numpy() == source) & (numbers == UNNAMED)]

    bounds = {source: _bounds(lambda: hashes(source), shares) for source in by_shares}  # noqa: B023
    found = undivided._replace(bounds=bounds)
    counts = []
    for uri in tables:
        numbers = found.numbers(_decisive(uri))
        counts.append(tuple(np.bincount(numbers[numbers >= 0], minlength=len(SPLITS)).tolist()))
    return found._replace(counts=tuple(counts))


def _bounds(hashes: Callable[[], Iterable[Hashes]], shares: SplitShares) -> tuple[int, ...]:
    """The hashes at which the second and the third split begin."""
    parts = [shares.get(split, 0.0) for split in SPLITS]
    num_all = sum(map(len, hashes()))
    return kth_smallest(hashes, [round(num_all * sum(parts[: i + 1]) / sum(parts)) for i in range(len(SPLITS) - 1)])
