"""Reads the content of taxonomy files and mapping files (docs/data.md) and checks it."""

from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from .colors import distinct_colors
from .taxonomy import IGNORE, MAX_CLASSES, Color, Group, Mapping, Pair, Relations, Taxonomy

_Name = Annotated[str, Field(pattern=r"^\w[\w .+-]*$", max_length=64)]
_Level = Annotated[int, Field(ge=0, le=255)]
_Rgb = tuple[_Level, _Level, _Level]


def _as_list_of_colors(value: Any) -> Any:
    """One color, `[r, g, b]`, is a list of one."""
    return [value] if isinstance(value, list | tuple) and value and isinstance(value[0], int) else value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_File = TypeVar("_File", bound=_Strict)


class _PairEntry(_Strict):
    viewer_left: _Name | None = None
    viewer_right: _Name | None = None
    sides_unknown: tuple[_Name, _Name] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = (self.viewer_left is not None, self.viewer_right is not None, self.sides_unknown is not None)
        if given not in ((True, True, False), (False, False, True)):
            raise ValueError("a pair has `viewer_left` and `viewer_right`, or `sides_unknown: [a, b]`")
        return self


class _RelationsEntry(_Strict):
    above: tuple[tuple[tuple[_Name, ...], ...], ...] = ()
    larger: dict[_Name, tuple[_Name, ...]] = {}


class _MappingEntry(_Strict):
    ids: dict[Annotated[int, Field(ge=0, le=IGNORE - 1)], _Name] = {}
    colors: dict[_Name, Annotated[tuple[_Rgb, ...], BeforeValidator(_as_list_of_colors)]] = {}
    classes: dict[_Name, _Name] = {}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(map(bool, (self.ids, self.colors, self.classes))) != 1:
            raise ValueError("a mapping has one of `ids`, `colors` and `classes`")
        return self


class _TaxonomyFile(_Strict):
    name: _Name
    classes: Annotated[tuple[_Name, ...], Field(min_length=2, max_length=MAX_CLASSES)]
    colors: dict[_Name, _Rgb] = {}
    pairs: tuple[_PairEntry, ...] = ()
    groups: dict[_Name, tuple[_Name, ...]] = {}
    relations: _RelationsEntry = _RelationsEntry()
    mappings: dict[_Name, _MappingEntry] = {}


class _MappingFile(_Strict):
    taxonomy: str
    classes: Annotated[dict[_Name, _Name], Field(min_length=1)]


def parse_taxonomy(content: object) -> Taxonomy:
    """The taxonomy of a file's content: the keys `name` and `classes`, and as needed `colors`, `pairs` and so on.

    Raises ValueError, with one sentence, for unknown keys, names of no class, and anything that is there twice.
    """
    found = _checked(_TaxonomyFile, content)
    _refuse_twice("class", found.classes)
    ids = {name: number for number, name in enumerate(found.classes)}
    pairs = tuple(_pair(entry, ids) for entry in found.pairs)
    _refuse_twice("class in `pairs`", [found.classes[part] for pair in pairs for part in pair[:2]])
    return Taxonomy(
        name=found.name,
        classes=found.classes,
        palette=_palette(found),
        pairs=pairs,
        groups=tuple(Group(name, _ids(names, ids, f"groups.{name}")) for name, names in found.groups.items()),
        relations=_relations(found.relations, ids),
        mappings=tuple(_mapping(name, entry, ids) for name, entry in found.mappings.items()),
    )


def parse_mapping(content: object, find: Callable[[str], Taxonomy]) -> tuple[Taxonomy, Mapping]:
    """The target taxonomy and the mapping of classes of a mapping file: the keys `taxonomy` and `classes`.

    `find` returns the taxonomy that the file names. Raises ValueError, with one sentence, for any other content.
    """
    found = _checked(_MappingFile, content)
    target = find(found.taxonomy)
    ids = {name: number for number, name in enumerate(target.classes)}
    return target, _mapping("", _MappingEntry(classes=found.classes), ids)


def parse_colors(content: object, taxonomy: Taxonomy) -> Mapping:
    """The mapping of a table of colors, whose keys are classes of `taxonomy` and whose values are `[r, g, b]`, or lists
    of these.

    Raises ValueError, with one sentence, for any other content.
    """
    found = _checked(_MappingEntry, {"colors": content})
    return _mapping("colors", found, {name: number for number, name in enumerate(taxonomy.classes)})


def _checked(kind: type[_File], content: object) -> _File:
    if not isinstance(content, dict):
        raise ValueError(f"expected the keys {', '.join(kind.model_fields)}, got {type(content).__name__}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields) if len(first["loc"]) == 1 else "those of docs/data.md"
            raise ValueError(f"unknown key {place!r}; known are {known}") from error
        reason = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{place}: {reason}" if place else reason) from error


def _id(name: str, ids: Dict[str, int], place: str) -> int:
    if name not in ids:
        raise ValueError(f"{place}: {name!r} is no class; the classes are {', '.join(ids)}")
    return ids[name]


def _ids(names: Sequence[str], ids: Dict[str, int], place: str) -> tuple[int, ...]:
    return tuple(_id(name, ids, place) for name in names)


def _pair(entry: _PairEntry, ids: Dict[str, int]) -> Pair:
    if entry.sides_unknown is not None:
        a, b = _ids(entry.sides_unknown, ids, "pairs")
        return Pair(a, b, has_sides=False)
    assert entry.viewer_left is not None and entry.viewer_right is not None
    return Pair(_id(entry.viewer_left, ids, "pairs"), _id(entry.viewer_right, ids, "pairs"))


def _palette(found: _TaxonomyFile) -> tuple[Color, ...]:
    _ids(tuple(found.colors), dict.fromkeys(found.classes, 0), "colors")
    _refuse_twice("color", list(found.colors.values()))
    given = dict(found.colors)
    background = found.classes[0]
    if background not in given and (0, 0, 0) not in given.values():
        given[background] = (0, 0, 0)
    missing = [name for name in found.classes if name not in given]
    given |= dict(zip(missing, distinct_colors(list(given.values()), len(missing)), strict=True))
    return tuple(given[name] for name in found.classes)


def _relations(entry: _RelationsEntry, ids: Dict[str, int]) -> Relations:
    return Relations(
        above=tuple(tuple(_ids(names, ids, "relations.above") for names in chain) for chain in entry.above),
        larger=tuple(
            (_id(name, ids, "relations.larger"), _ids(others, ids, "relations.larger"))
            for name, others in entry.larger.items()
        ),
    )


def _mapping(name: str, entry: _MappingEntry, ids: Dict[str, int]) -> Mapping:
    place = f"mappings.{name}" if name else "classes"
    colors = [(color, part) for part, colors in entry.colors.items() for color in colors]
    _refuse_twice(f"color in {place}", [color for color, _ in colors])
    return Mapping(
        name=name,
        ids=tuple((source, _id(part, ids, place)) for source, part in entry.ids.items()),
        colors=tuple((color, _id(part, ids, place)) for color, part in colors),
        classes=tuple((source, _id(part, ids, place)) for source, part in entry.classes.items()),
    )


def _refuse_twice(what: str, values: Sequence[object]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise ValueError(f"{what} {value!r} is there {count} times; each may be there once")
