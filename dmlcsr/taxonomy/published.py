"""The four published taxonomies, read from their YAML files.

Sources: LaPa (AAAI 2020), CelebAMask-HQ (CVPR 2020), Helen relabelled by Smith et al. / Lin et al., Face
Synthetics (ICCV 2021). The sides were measured on published samples (docs/data.md).
"""

from collections.abc import Mapping
from importlib import resources

import yaml

from .reading import parse_taxonomy
from .taxonomy import Taxonomy


def _load(name: str) -> Taxonomy:
    text = resources.files(__package__).joinpath("files", f"{name}.yaml").read_text(encoding="utf-8")
    return parse_taxonomy(yaml.safe_load(text))


LAPA, CELEBAMASK_HQ, HELEN, FACE_SYNTHETICS = map(_load, ("lapa", "celebamask_hq", "helen", "face_synthetics"))

TAXONOMIES: Mapping[str, Taxonomy] = {found.name: found for found in (LAPA, CELEBAMASK_HQ, HELEN, FACE_SYNTHETICS)}


def get_taxonomy(name: str) -> Taxonomy:
    """The built-in taxonomy with this name. Raises ValueError for an unknown name; the message lists the known ones."""
    if name not in TAXONOMIES:
        raise ValueError(f"unknown taxonomy {name!r}; known are {', '.join(sorted(TAXONOMIES))}")
    return TAXONOMIES[name]
