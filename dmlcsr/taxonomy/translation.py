"""Compares taxonomies, and translates labels between them."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from .taxonomy import IGNORE, Mapping, Taxonomy

Match = Literal["same", "sides unknown", "sides differ", "classes differ"]


def match(a: Taxonomy, b: Taxonomy) -> Match:
    """Compares what the ids of two taxonomies mean; names of taxonomies and colors do not matter.

    They are the same if they have the same classes in the same order and the same pairs. Then a pair whose sides are
    known in both, and differ, decides; else a pair whose sides are known in one of them only.
    """
    if a.classes != b.classes or a.flip_pairs != b.flip_pairs:
        return "classes differ"
    sides_a, sides_b = set(a.sides), set(b.sides)
    if any((right, left) in sides_b for left, right in sides_a):
        return "sides differ"
    return "same" if sides_a == sides_b else "sides unknown"


def remap_lut(source: Taxonomy, target: Taxonomy, mapping: Mapping | None = None) -> npt.NDArray[np.uint8]:
    """(256,) uint8 lookup table from ids of `source` to ids of `target`; 255 stays 255.

    `mapping` is one of classes; None means the mapping of `target` that has the name of `source`. Raises ValueError if
    there is none, or if it names a class that `source` does not have.
    """
    if mapping is None:
        mapping = next((found for found in target.mappings if found.classes and found.name == source.name), None)
    if mapping is None:
        known = ", ".join(found.name for found in target.mappings if found.classes) or "no taxonomy"
        raise ValueError(f"no mapping from {source.name} to {target.name} is defined; {target.name} maps {known}")
    lut = np.full(256, IGNORE, np.uint8)
    lut[: source.num_classes] = 0
    for name, part in mapping.classes:
        if name not in source.classes:
            raise ValueError(f"the mapping {mapping.name} names {name!r}, which is no class of {source.name}")
        lut[source.classes.index(name)] = part
    return lut
