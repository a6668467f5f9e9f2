"""Taxonomies by name or file, mapping files and tables of colors, as users give them on the command line."""

from collections.abc import Callable
from typing import Any, TypeVar

from dmlcsr.taxonomy import (
    TAXONOMIES,
    Mapping,
    Taxonomy,
    get_taxonomy,
    parse_colors,
    parse_mapping,
    parse_taxonomy,
    remap_lut,
)
from pipelines import storage
from pipelines.config import plain_yaml
from pipelines.errors import UserError

FILE_SUFFIXES = (".yaml", ".yml")
T = TypeVar("T")


def name_or_uri(value: str) -> str:
    """The name of a built-in taxonomy, or the absolute URI of a YAML file. Raises ValueError for anything else."""
    if value in TAXONOMIES:
        return value
    if value.lower().endswith(FILE_SUFFIXES):
        return storage.absolute(value)
    known = ", ".join(sorted(TAXONOMIES))
    raise ValueError(f"unknown taxonomy {value!r}; known are {known}, or give a file that ends with .yaml")


def read_taxonomy(name: str) -> Taxonomy:
    """The taxonomy with this name, or in this YAML file. Raises UserError if the file is missing or damaged."""
    return get_taxonomy(name) if name in TAXONOMIES else _read(name, parse_taxonomy)


def read_remap(name: str, source: Taxonomy) -> tuple[Taxonomy, Any]:
    """The target of `--remap-to`, and the lookup table (256,) uint8 from ids of `source` to its ids.

    `name` is a taxonomy that has a mapping from `source`, or a mapping file. Raises UserError if there is no mapping.
    """
    mapping: Mapping | None = None
    if name not in TAXONOMIES and "taxonomy" in (content := _read(name, _keys)):
        target, mapping = _read(name, lambda _: parse_mapping(content, lambda value: read_taxonomy(name_or_uri(value))))
    else:
        target = read_taxonomy(name)
    try:
        return target, remap_lut(source, target, mapping)
    except ValueError as error:
        raise UserError(f"--remap-to {name}: {error}") from error


def read_colors(uri: str, taxonomy: Taxonomy) -> Mapping:
    """The mapping of a table of colors: a YAML file `class: [r, g, b]`, or CVAT's `labelmap.txt`.

    Raises UserError if the file is missing or damaged, or names no class of `taxonomy`.
    """
    is_yaml = uri.lower().endswith(FILE_SUFFIXES)
    try:
        text = storage.read_bytes(uri).decode()
        return parse_colors(plain_yaml.load(text) if is_yaml else labelmap(text), taxonomy)
    except ValueError as error:
        raise UserError(f"--colors {uri}: {error}") from error


def labelmap(text: str) -> dict[str, list[list[int]]]:
    """The colors of each class in CVAT's `labelmap.txt`, lines `name:r,g,b:parts:actions`, `#` begins a comment.

    Raises ValueError, with the line, for any other content.
    """
    colors: dict[str, list[list[int]]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, rest = line.strip().partition(":")
        levels = rest.partition(":")[0].split(",")
        if len(levels) != 3 or not all(level.strip().isdecimal() for level in levels):
            raise ValueError(f"line {number}: expected `class:r,g,b::`, got {line[:80]!r}")
        colors.setdefault(name, []).append([int(level) for level in levels])
    return colors


def _keys(content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError("expected a taxonomy, or a mapping with the keys `taxonomy` and `classes`")
    return content


def _read(uri: str, parse: Callable[[object], T]) -> T:
    try:
        return parse(plain_yaml.load(storage.read_bytes(uri).decode()))
    except ValueError as error:
        raise UserError(f"{uri}: {error}") from error
