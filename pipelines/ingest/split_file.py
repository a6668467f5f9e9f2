"""Reads `--split-file`: lines `<id> <train|val|test>`."""

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipelines.config.base import SPLITS
from pipelines.errors import UserError
from pipelines.ingest.splits import SPLIT_NAMES, order, read_lines

_UNNAMED = -1


class SplitFile:
    """The numbers of splits by the hashes of ids, in 9 bytes per line.

    Raises UserError if the file is missing or damaged.
    """

    def __init__(self, uri: str) -> None:
        hashes, numbers = array("Q", [0]), array("b", [_UNNAMED])  # the first entry is found for ids below all others
        for number, line in read_lines(uri):
            name, _, split = line.rpartition(" ")
            if split not in SPLIT_NAMES:
                raise UserError(f"{uri}, line {number}: expected `<id> <train|val|test>`, got {line[:80]!r}")
            hashes.append(order(name.strip(), 0))
            numbers.append(SPLITS.index(SPLIT_NAMES[split]))
        by_hash = np.argsort(np.array(hashes), kind="stable")
        self._hashes, self._numbers = np.array(hashes)[by_hash], np.array(numbers)[by_hash]

    def numbers_of(self, prefix: str, names: Sequence[str]) -> npt.NDArray[np.int8]:
        """The number of the split of each id, which the file names with the prefix of its source or without; else -1.

        Of several lines about an id the last one holds.
        """
        found = self._lookup([prefix + name for name in names])
        return np.where(found == _UNNAMED, self._lookup(names), found) if prefix else found

    def _lookup(self, names: Sequence[str]) -> npt.NDArray[np.int8]:
        hashes = np.array([order(name, 0) for name in names], np.uint64)
        last = np.searchsorted(self._hashes, hashes, side="right") - 1
        return np.where(self._hashes[last] == hashes, self._numbers[last], _UNNAMED)
