"""Statistics of more 64-bit hashes than fit into memory, by reading them several times."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

_HIGHEST = 2**64 - 1
_PASS_HASHES = 1 << 21
"""Number of hashes of one pass, about 16 MB."""
Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]


def kth_smallest(hashes: Callable[[], Iterable[Hashes]], places: Sequence[int]) -> tuple[int, ...]:
    """The hashes at these places, counted from 0, in the order of all; the highest possible one behind the last.

    The hashes are read once to count them by their first 16 bits, and once for each place.
    """
    counts = sum((np.bincount(_first_bits(part), minlength=1 << 16) for part in hashes()), np.zeros(1 << 16, int))
    ends = np.cumsum(counts)
    found = []
    for place in places:
        first = int(np.searchsorted(ends, place, side="right"))
        if first == len(ends):
            found.append(_HIGHEST)
            continue
        inside = np.sort(np.concatenate([part[_first_bits(part) == first] for part in hashes()]))
        found.append(int(inside[place - (ends[first] - counts[first])]))
    return tuple(found)


def repeated(hashes: Callable[[], Iterable[Hashes]], num_all: int) -> list[int]:
    """The hashes that occur more than once, found in several passes over parts of all possible ones."""
    num_passes = max(1, -(-num_all // _PASS_HASHES))
    found: list[int] = []
    for number in range(num_passes):
        low, high = (((number + end) << 16) // num_passes for end in (0, 1))
        parts = [part[(_first_bits(part) >= low) & (_first_bits(part) < high)] for part in hashes()]
        inside = np.sort(np.concatenate(parts))
        found += np.unique(inside[1:][inside[1:] == inside[:-1]]).tolist()
    return found


def _first_bits(hashes: Hashes) -> Numbers:
    return (hashes >> np.uint64(48)).astype(np.int64)
