"""What is counted while a data set is relabelled; the tallies of its files add up."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dmlcsr.refine import Refined
from dmlcsr.taxonomy import Taxonomy

MAX_SUSPECTS = 1000
"""Rows with the worst labels that are remembered."""


class Suspect(NamedTuple):
    """A row with a bad label: its score, and where it is in the new version."""

    quality: float
    id: str
    path: str
    row: int


@dataclass
class RelabelCounts:
    """Sums over relabelled rows."""

    counts: npt.NDArray[np.float64]
    """(4,): rows, rows that changed, rows that had a label, and the sum of their scores."""
    class_quality: npt.NDArray[np.float64]
    """(2, K): rows whose label had the class, and the sum of their scores of it."""
    pairs: npt.NDArray[np.int64]
    """(K + 1, K + 1) pixels by class before and after; the last stands for ignored, and for no label at all."""
    worst: list[Suspect] = field(default_factory=list)
    """At least the MAX_SUSPECTS worst labels."""

    @classmethod
    def zeros(cls, num_classes: int) -> "RelabelCounts":
        return cls(np.zeros(4), np.zeros((2, num_classes)), np.zeros((num_classes + 1, num_classes + 1), np.int64))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RelabelCounts":
        arrays = (np.array(values["counts"]), np.array(values["class_quality"]), np.array(values["pairs"], np.int64))
        return cls(*arrays, [Suspect(*item) for item in values["worst"]])

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return {
            "counts": self.counts.tolist(),
            "class_quality": self.class_quality.tolist(),
            "pairs": self.pairs.tolist(),
            "worst": heapq.nsmallest(MAX_SUSPECTS, self.worst),
        }

    def __iadd__(self, other: "RelabelCounts") -> "RelabelCounts":
        self.counts += other.counts
        self.class_quality += other.class_quality
        self.pairs += other.pairs
        self._remember(other.worst)
        return self

    @property
    def num_rows(self) -> int:
        return int(self.counts[0])

    @property
    def num_changed_rows(self) -> int:
        return int(self.counts[1])

    @property
    def mean_quality(self) -> float | None:
        """Of the labels before, over the rows that had one."""
        return float(self.counts[3] / self.counts[2]) if self.counts[2] else None

    def add(self, refined: Refined, row_id: str, path: str) -> None:
        """Counts one more row, the next of the file `path`."""
        self.counts[:2] += 1, refined.num_changed_pixels > 0
        self.pairs += refined.pairs
        if refined.quality is None:
            return
        self.counts[2:] += 1, refined.quality.image
        scores = np.array([np.nan if score is None else score for score in refined.quality.classes])
        self.class_quality += ~np.isnan(scores), np.nan_to_num(scores)
        self._remember([Suspect(refined.quality.image, row_id, path, self.num_rows - 1)])

    def _remember(self, suspects: Sequence[Suspect]) -> None:
        self.worst += suspects
        if len(self.worst) > 2 * MAX_SUSPECTS:  # now and then: to sort after each row would take longer than the row
            self.worst = heapq.nsmallest(MAX_SUSPECTS, self.worst)

    def summary(self, taxonomy: Taxonomy) -> dict[str, Any]:
        """For the manifest: counts, mean scores, and the changed pixels of each pair of classes, most first."""
        names = (*taxonomy.classes, "ignored")
        changed = self.pairs * (1 - np.eye(len(names), dtype=np.int64))
        order = sorted(np.argwhere(changed).tolist(), key=lambda pair: -changed[tuple(pair)])
        means = self.class_quality[1] / np.maximum(self.class_quality[0], 1)
        return {
            "num_rows": self.num_rows,
            "num_changed_rows": self.num_changed_rows,
            "num_pixels": int(self.pairs.sum()),
            "num_changed_pixels": int(changed.sum()),
            "changed_pixels": {
                f"{names[before]} > {names[after]}": int(changed[before, after]) for before, after in order
            },
            "mean_quality": self.mean_quality,
            "class_quality": {
                name: float(mean)
                for name, mean, shown in zip(taxonomy.classes, means, self.class_quality[0], strict=True)
                if shown
            },
        }
