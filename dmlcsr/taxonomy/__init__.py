"""Taxonomies: named, ordered sets of classes, which say what the ids of a label map mean.

Data sets and models carry their whole taxonomy. A mismatch is an error; labels are never translated silently. The four
published ones are YAML files in `files/`; teams write files of the same kind (docs/data.md).
"""

from .published import CELEBAMASK_HQ, FACE_SYNTHETICS, HELEN, LAPA, TAXONOMIES, get_taxonomy
from .reading import parse_colors, parse_mapping, parse_taxonomy
from .taxonomy import IGNORE, MAX_CLASSES, Color, Group, Mapping, Pair, Relations, Taxonomy
from .translation import Match, match, remap_lut

__all__ = [
    "CELEBAMASK_HQ",
    "FACE_SYNTHETICS",
    "HELEN",
    "IGNORE",
    "LAPA",
    "MAX_CLASSES",
    "TAXONOMIES",
    "Color",
    "Group",
    "Mapping",
    "Match",
    "Pair",
    "Relations",
    "Taxonomy",
    "get_taxonomy",
    "match",
    "parse_colors",
    "parse_mapping",
    "parse_taxonomy",
    "remap_lut",
]
