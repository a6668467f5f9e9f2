"""Counts of a relabelling. The counts of a data set are the sums over its files."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dmlcsr.refine import Refined
from dmlcsr.taxonomy import Taxonomy

MAX_SUSPECTS = 1000
"""Number of rows with the worst labels that are kept."""


class Suspect(NamedTuple):
    """A row with a bad label: its score, 0 (wrong) to 1 (right), and its file and index in the new version."""

    quality: float
    id: str
    path: str
    row: int


@dataclass
class RelabelCounts:
    """Sums over relabelled rows."""

    counts: npt.NDArray[np.float64]
    """(4,): number of rows, of changed rows, of rows that had a label, and the sum of the scores of the latter."""
    class_quality: npt.NDArray[np.float64]
    """(2, K): for each class, number of rows whose label had it, and the sum of their scores for it."""
    pairs: npt.NDArray[np.int64]
    """(K + 1, K + 1): number of pixels by class before and after. Index K: ignored, or no label before."""
    worst: list[Suspect] = field(default_factory=list)
    """The MAX_SUSPECTS worst labels, and possibly others."""

    @classmethod
    def zeros(cls, num_classes: int) -> "RelabelCounts":
        return cls(np.zeros(4), np.zeros((2, num_classes)), np.zeros((num_classes + 1, num_classes + 1), np.int64))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RelabelCounts":
        arrays = (np.array(values["counts"]), np.array(values["class_quality"]), np.array(values["pairs"], np.int64))
        return cls(*arrays, [Suspect(*item) for item in values["worst"]])

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON-able values, with the MAX_SUSPECTS worst labels, worst first."""
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
        """The mean score of the old labels, 0 to 1, or None if no row had a label."""
        return float(self.counts[3] / self.counts[2]) if self.counts[2] else None

    def add(self, refined: Refined, row_id: str, place: int) -> None:
        """Adds a row with its place in the file. The name of the file is known when it is written."""
        self.counts[:2] += 1, refined.num_changed_pixels > 0
        self.pairs += refined.pairs
        if refined.quality is None:
            return
        self.counts[2:] += 1, refined.quality.image
        scores = np.array([np.nan if score is None else score for score in refined.quality.classes])
        self.class_quality += ~np.isnan(scores), np.nan_to_num(scores)
        self._remember([Suspect(refined.quality.image, row_id, "", place)])

    def set_path(self, path: str) -> None:
        """Sets the file of all rows that were added."""
        self.worst = [suspect._replace(path=path) for suspect in self.worst]

    def _remember(self, suspects: Sequence[Suspect]) -> None:
        self.worst += suspects
        if len(self.worst) > 2 * MAX_SUSPECTS:  # rarely, because a sort takes longer than a row
            self.worst = heapq.nsmallest(MAX_SUSPECTS, self.worst)

    def summary(self, taxonomy: Taxonomy) -> dict[str, Any]:
        """The entry of the manifest: counts, mean scores, and changed pixels by pair of classes, most pixels first."""
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
