"""Counts over the rows of a data set. The counts of a data set are the sums over its files."""

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dmlcsr.taxonomy import IGNORE
from pipelines.config.base import Split
from pipelines.data.packing import SampleProblem

GRID = 64
"""Side of the grid to which each label is scaled, to count where its classes lie."""
NUM_UNUSUAL = 12
"""Number of labels with the highest surprise that are kept."""
_EXAMPLES = 5
"""Number of problems of each reason that are kept as examples."""
_SIDE_BINS, _RATIO_BINS = 28, 17
Label = npt.NDArray[np.uint8]


class Unusual(NamedTuple):
    """A label that the mean class map explains badly, and where its row is: split, file, row group, row of the group.

    It sorts by the surprise, highest first.
    """

    minus_surprise: float
    split: Split
    id: str
    file: int
    group: int
    row: int


class ClassMap(NamedTuple):
    """The logarithms of the fractions of labels that have a class at a place: (K, GRID * GRID) float32."""

    logarithms: npt.NDArray[np.float32]

    def surprise(self, grid: Label) -> float:
        """The mean of -log p over the places of a label on the grid, where p is the fraction of labels that agree."""
        places = np.flatnonzero(grid.ravel() != IGNORE)
        return float(-self.logarithms[grid.ravel()[places], places].mean()) if len(places) else 0.0


@dataclass
class SetCounts:
    """Sums over rows, for a taxonomy of K classes (0 if no row has a label)."""

    pixels: npt.NDArray[np.int64]
    """(K + 1,): label pixels by class; index K: ignored."""
    images: npt.NDArray[np.int64]
    """(K + 1,): labels that have such pixels."""
    places: npt.NDArray[np.int64]
    """(K, GRID * GRID): labels that have the class at this place of the grid."""
    sides: npt.NDArray[np.int64]
    """Images by their longer side: bin b holds 2^(b/2) to less than 2^((b+1)/2) pixels."""
    ratios: npt.NDArray[np.int64]
    """Images by width / height, rounded to 2^(b/4 - 2) for bin b."""
    num_labels: int = 0
    num_unlabelled: int = 0
    smallest: tuple[int, int] | None = None
    """(width, height) of the image with the fewest pixels."""
    largest: tuple[int, int] | None = None
    problems: Counter[str] = field(default_factory=Counter)
    """Labels that cannot be counted, by reason."""
    examples: list[SampleProblem] = field(default_factory=list)
    unusual: list[Unusual] = field(default_factory=list)

    @classmethod
    def zeros(cls, num_classes: int) -> "SetCounts":
        def sums(*shape: int) -> npt.NDArray[np.int64]:
            return np.zeros(shape, np.int64)

        return cls(
            pixels=sums(num_classes + 1),
            images=sums(num_classes + 1),
            places=sums(num_classes, GRID**2),
            sides=sums(_SIDE_BINS),
            ratios=sums(_RATIO_BINS),
        )

    def add_image(self, width: int, height: int) -> None:
        width, height = max(width, 1), max(height, 1)
        self.sides[min(int(2 * np.log2(max(width, height))), _SIDE_BINS - 1)] += 1
        self.ratios[int(np.clip(np.round(4 * np.log2(width / height)), -8, 8)) + 8] += 1
        self._bound((width, height), (width, height))

    def add_label(self, label: Label) -> Label:
        """Adds a (H, W) label whose ids are classes or IGNORE; returns it on the grid, (GRID, GRID)."""
        num_classes = len(self.places)
        counts = np.bincount(label.ravel(), minlength=256)
        found = np.append(counts[:num_classes], counts[IGNORE])
        self.num_labels += 1
        self.pixels += found
        self.images += found > 0
        grid = cv2.resize(label, (GRID, GRID), interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)
        places = np.flatnonzero(grid.ravel() != IGNORE)
        self.places[grid.ravel()[places], places] += 1
        return grid

    def add_problem(self, problem: SampleProblem) -> None:
        self.problems[problem["reason"]] += 1
        self._keep_examples([problem])

    def add_unusual(self, *found: Unusual) -> None:
        self.unusual = heapq.nsmallest(NUM_UNUSUAL, [*self.unusual, *found])

    def class_map(self) -> ClassMap:
        """The mean class map. Half a label is added to each class everywhere, so that no probability is 0."""
        counts = self.places + 0.5
        return ClassMap(np.log(counts / counts.sum(0)).astype(np.float32))

    def __iadd__(self, other: "SetCounts") -> "SetCounts":
        for name in ("pixels", "images", "places", "sides", "ratios"):
            getattr(self, name).__iadd__(getattr(other, name))
        self.num_labels += other.num_labels
        self.num_unlabelled += other.num_unlabelled
        if other.smallest is not None and other.largest is not None:
            self._bound(other.smallest, other.largest)
        self.problems += other.problems
        self._keep_examples(other.examples)
        self.add_unusual(*other.unusual)
        return self

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON-able values."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SetCounts":
        arrays = {name: np.array(values[name], np.int64) for name in ("pixels", "images", "sides", "ratios")}
        places = np.array(values["places"], np.int64).reshape(-1, GRID**2)
        bounds = {name: values[name] and tuple(values[name]) for name in ("smallest", "largest")}
        more = {"problems": Counter(values["problems"]), "unusual": [Unusual(*each) for each in values["unusual"]]}
        return cls(**{**values, **arrays, **bounds, **more, "places": places})

    def _bound(self, smallest: tuple[int, int], largest: tuple[int, int]) -> None:
        def area(size: tuple[int, int]) -> tuple[int, int]:
            return size[0] * size[1], size[0]

        self.smallest = min(smallest, self.smallest or smallest, key=area)
        self.largest = max(largest, self.largest or largest, key=area)

    def _keep_examples(self, examples: list[SampleProblem]) -> None:
        known = sorted([*self.examples, *examples], key=lambda problem: (problem["reason"], problem["source"]))
        self.examples = [
            problem
            for place, problem in enumerate(known)
            if place < _EXAMPLES or known[place - _EXAMPLES]["reason"] != problem["reason"]
        ]


def side_bins(sides: npt.NDArray[np.int64]) -> dict[str, int]:
    """The images by their longer side in pixels: from the smallest to the largest bin, each named by its lower end."""
    return _shown(sides, [f"{np.ceil(2 ** (place / 2)):.0f}" for place in range(len(sides))])


def ratio_bins(ratios: npt.NDArray[np.int64]) -> dict[str, int]:
    """The images by width / height, from the smallest to the largest bin, each named by its middle."""
    return _shown(ratios, [f"{2 ** (place / 4 - 2):.2f}" for place in range(len(ratios))])


def _shown(counts: npt.NDArray[np.int64], names: list[str]) -> dict[str, int]:
    places = np.flatnonzero(counts)
    if not len(places):
        return {}
    return {names[place]: int(counts[place]) for place in range(places[0], places[-1] + 1)}
