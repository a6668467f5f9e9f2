"""Holds label maps against the relations of their taxonomy, to find ids that mean other classes than they should.

A label map whose ids are those of another public order passes every check of values. But its "nose" may lie above its
"eyes": relations between the parts of a face, which the taxonomy states, distinguish the orders.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dmlcsr.taxonomy import IGNORE, Mapping, Relations, Taxonomy

_GRID = 256
"""Number of rows and columns that are enough to compare sizes and places of the parts of a face."""


class Agreement(NamedTuple):
    """The number of relations that could be checked, and how many of them did not hold."""

    num_checked: int
    num_violated: int

    def __add__(self, other: tuple[int, ...]) -> "Agreement":  # type: ignore[override]
        return Agreement(self.num_checked + other[0], self.num_violated + other[1])

    @property
    def violated_fraction(self) -> float:
        return self.num_violated / self.num_checked if self.num_checked else 0.0


class PartPositions(NamedTuple):
    """Sums over the pixels of a label map, by id: numbers of pixels (256,), and sums of their row numbers (256,)."""

    num_pixels: npt.NDArray[np.float64]
    row_sums: npt.NDArray[np.float64]

    @classmethod
    def of(cls, label: npt.NDArray[np.uint8]) -> "PartPositions":
        """The sums of a (H, W) uint8 label map, of which at most about 256 x 256 evenly spaced pixels are read."""
        label = label[:: max(1, label.shape[0] // _GRID), :: max(1, label.shape[1] // _GRID)]
        by_row = np.stack([np.bincount(row, minlength=256) for row in label]).astype(np.float64)
        return cls(by_row.sum(0), np.arange(len(label)) @ by_row)

    def translated(self, lut: npt.NDArray[np.uint8]) -> "PartPositions":
        """The sums of the label map `lut[label]`; `lut` is a (256,) uint8 lookup table."""
        pixels, rows = (np.bincount(lut, weights=sums, minlength=256).astype(np.float64) for sums in self)
        return PartPositions(pixels, rows)


def mapping_lut(mapping: Mapping) -> npt.NDArray[np.uint8]:
    """(256,) uint8 lookup table of a mapping of ids; 255 and ids that it does not list become 255."""
    lut = np.full(256, IGNORE, np.uint8)
    for source, part in mapping.ids:
        lut[source] = part
    return lut


def agreement(positions: PartPositions, relations: Relations) -> Agreement:
    """Checks the relations. A relation of which one side is not visible is not checked."""
    held = [
        *(_is_above(positions, *entries) for chain in relations.above for entries in _all_pairs(chain)),
        *(
            positions.num_pixels[part] > positions.num_pixels[other]
            for part, others in relations.larger
            for other in others
            if positions.num_pixels[other]
        ),
    ]
    found = [bool(each) for each in held if each is not None]
    return Agreement(len(found), found.count(False))


def _all_pairs(chain: tuple[tuple[int, ...], ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(upper, lower) for number, upper in enumerate(chain) for lower in chain[number + 1 :]]


def _is_above(positions: PartPositions, upper: tuple[int, ...], lower: tuple[int, ...]) -> bool | None:
    """True if the mean row of the ids `upper` is above that of `lower`; None if either is not visible."""
    means = []
    for ids in (list(upper), list(lower)):
        count = positions.num_pixels[ids].sum()
        if not count:
            return None
        means.append(positions.row_sums[ids].sum() / count)
    return bool(means[0] < means[1])


def agreements(positions: PartPositions, taxonomy: Taxonomy) -> dict[str, Agreement]:
    """The agreement of a label map's ids as they are, under the name "", and under each mapping of ids, by its name."""
    found = {"": agreement(positions, taxonomy.relations)}
    for mapping in taxonomy.mappings:
        if mapping.ids:
            found[mapping.name] = agreement(positions.translated(mapping_lut(mapping)), taxonomy.relations)
    return found
