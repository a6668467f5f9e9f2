"""The taxonomy itself: classes, colors, pairs with their sides, groups, relations and mappings."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

IGNORE = 255
"""Label id of a pixel that losses and scores ignore."""
MAX_CLASSES = IGNORE
"""Largest number of classes: their ids are 0 to 254."""

Color = tuple[int, int, int]
"""Red, green and blue, each 0..255."""


class Pair(NamedTuple):
    """Two ids that a horizontal mirror swaps."""

    left: int
    """Id of the part on the viewer's left, if the sides are known."""
    right: int
    has_sides: bool = True
    """False if it is not known which of the two is on the viewer's left."""


class Group(NamedTuple):
    """Classes that count as one in a pooled "overall" F1 (Helen)."""

    name: str
    ids: tuple[int, ...]


class Relations(NamedTuple):
    """Statements that hold for every upright face, to find labels whose ids mean something else.

    A statement about a class that a label does not show is not checked.
    """

    above: tuple[tuple[tuple[int, ...], ...], ...] = ()
    """Chains from top to bottom: the mean row of each entry, a set of ids, is above that of the next."""
    larger: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """(id, other ids): the first class has more pixels than each of the others."""


NO_RELATIONS = Relations()


class Mapping(NamedTuple):
    """A translation of other labels to this taxonomy. Exactly one of the three tuples is not empty."""

    name: str
    ids: tuple[tuple[int, int], ...] = ()
    """(source id, id)."""
    colors: tuple[tuple[Color, int], ...] = ()
    """(RGB color in the source, id)."""
    classes: tuple[tuple[str, int], ...] = ()
    """(class of the taxonomy `name`, id); a class that is not listed becomes background."""


@dataclass(frozen=True)
class Taxonomy:
    """An ordered set of classes; the index of a class is its id in label maps. Class 0 is background."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    """One color per class, all different."""
    pairs: tuple[Pair, ...] = ()
    groups: tuple[Group, ...] = ()
    """Groups of the pooled "overall" F1; empty if the data set defines none."""
    relations: Relations = NO_RELATIONS
    mappings: tuple[Mapping, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs as (smaller id, larger id), in the order of the ids."""
        return tuple(sorted((min(a, b), max(a, b)) for a, b, _ in self.pairs))

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """The pairs whose sides are known, each as (id on the viewer's left, id on the viewer's right)."""
        return tuple((pair.left, pair.right) for pair in self.pairs if pair.has_sides)

    def side_of(self, part: int) -> str | None:
        """The viewer's side of a class, `left` or `right`; None if it belongs to no pair with known sides."""
        found = [("left", left) for left, _ in self.sides] + [("right", right) for _, right in self.sides]
        return next((side for side, other in found if other == part), None)

    def mapping(self, name: str) -> Mapping:
        """The mapping with this name. Raises ValueError for an unknown name; the message lists the known ones."""
        for found in self.mappings:
            if found.name == name:
                return found
        known = ", ".join(found.name for found in self.mappings) or "none"
        raise ValueError(f"the taxonomy {self.name} has no mapping {name!r}; known are {known}")

    def flip_lut(self) -> npt.NDArray[np.uint8]:
        """(256,) uint8 lookup table that swaps the left/right ids and maps every other value to itself."""
        lut = np.arange(256, dtype=np.uint8)
        for a, b, _ in self.pairs:
            lut[a], lut[b] = b, a
        return lut

    def colorize(self, label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """(H, W) uint8 ids -> (H, W, 3) uint8 RGB; ids outside the taxonomy (255 = ignore) become gray."""
        lut = np.full((256, 3), 128, np.uint8)
        lut[: self.num_classes] = self.palette
        return lut[label]

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of a taxonomy file (JSON-able), from which `parse_taxonomy` makes an equal taxonomy."""
        names = self.classes
        return {
            "name": self.name,
            "classes": list(names),
            "colors": {name: list(color) for name, color in zip(names, self.palette, strict=True)},
            "pairs": [
                {"viewer_left": names[pair.left], "viewer_right": names[pair.right]}
                if pair.has_sides
                else {"sides_unknown": [names[pair.left], names[pair.right]]}
                for pair in self.pairs
            ],
            "groups": {group.name: [names[part] for part in group.ids] for group in self.groups},
            "relations": {
                "above": [[[names[part] for part in entry] for entry in chain] for chain in self.relations.above],
                "larger": {names[part]: [names[other] for other in others] for part, others in self.relations.larger},
            },
            "mappings": {found.name: self._mapping_dict(found) for found in self.mappings},
        }

    def _mapping_dict(self, found: Mapping) -> dict[str, Any]:
        if found.ids:
            return {"ids": {str(source): self.classes[part] for source, part in found.ids}}
        if found.colors:
            colors: dict[str, list[list[int]]] = {}
            for color, part in found.colors:
                colors.setdefault(self.classes[part], []).append(list(color))
            return {"colors": colors}
        return {"classes": {source: self.classes[part] for source, part in found.classes}}
