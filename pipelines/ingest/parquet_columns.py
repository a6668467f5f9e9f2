"""Finds the columns of a Parquet file that hold images, labels and ids."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import pyarrow as pa

from pipelines.config.commands import ColumnRole
from pipelines.data.packing import printable
from pipelines.errors import UserError

Leaf = tuple[str, ...]
"""Names that lead to a column through its structs, such as ("image", "bytes")."""
_NAMES: Mapping[ColumnRole, tuple[str, ...]] = {
    "image": ("image", "images", "img", "photo", "picture"),
    "label": ("label", "labels", "mask", "masks", "annotation", "annotations", "segmentation", "seg", "label_map"),
    "id": ("id", "image_id"),
}
"""Names by which a column is found if `--columns` does not name it."""


class Columns(NamedTuple):
    """The columns that are read: encoded images and labels, ids, and paths of the images, whose stems may be ids."""

    image: Leaf
    label: Leaf | None
    id: Leaf | None
    path: Leaf | None

    @property
    def contents(self) -> tuple[Leaf, ...]:
        """The columns of images and labels."""
        return (self.image,) if self.label is None else (self.image, self.label)

    @property
    def names(self) -> Leaf | None:
        """The column that ids are made from."""
        return self.id or self.path


def find_columns(schema: pa.Schema, given: Mapping[ColumnRole, str], uri: str) -> Columns:
    """The columns that `given` names, and else those whose names and types leave no doubt.

    Raises UserError, which lists all columns, if a column is missing, of another type, or not clear.
    """
    found = _Search(schema, given, uri)
    image = found.content("image")
    if image is None:
        raise found.error("image", "no column holds images")
    label = found.content("label", image[0])
    path = _path_beside(schema, image)
    return Columns(image, label, found.key(), path)


def has_columns(schema: pa.Schema, columns: Columns) -> bool:
    """True if another file has these columns too, with types that can be read."""
    kinds = dict(_fields(schema))
    has_names = columns.names is None or _is_name(kinds.get(columns.names))
    return has_names and all(_is_bytes(kinds.get(leaf)) for leaf in columns.contents)


class _Search:
    """The columns of one schema, by dotted name and by what they may hold."""

    def __init__(self, schema: pa.Schema, given: Mapping[ColumnRole, str], uri: str) -> None:
        self.given = given
        self.uri = uri
        self.contents: dict[str, list[Leaf]] = {}
        self.keys: dict[str, list[Leaf]] = {}
        self.all = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
        for leaf, kind in _fields(schema):
            name = ".".join(leaf)
            if _is_bytes(kind):
                self.contents.setdefault(name, []).append(leaf)
            elif pa.types.is_struct(kind) and any(_is_bytes(f.type) for f in _named(kind, "bytes")):
                self.contents.setdefault(name, []).append((*leaf, "bytes"))
            elif _is_name(kind):
                self.keys.setdefault(name, []).append(leaf)

    def content(self, role: ColumnRole, taken: str = "") -> Leaf | None:
        """The column of images or labels, None if there is none. The field `taken` is no candidate."""
        if role in self.given:
            return self._given(role, self.contents)
        free = {name: leaves for name, leaves in self.contents.items() if "." not in name and name != taken}
        found = [leaf for name, leaves in free.items() if name.lower() in _NAMES[role] for leaf in leaves]
        others = [leaf for leaves in free.values() for leaf in leaves]
        if role == "image" and not found and len(others) == 1:
            return others[0]
        if len(found) == 1:
            return found[0]
        if others:
            raise self.error(role, f"which column holds the {role}s is not clear")
        return None

    def key(self) -> Leaf | None:
        """The column of ids; None if there is none."""
        if "id" in self.given:
            return self._given("id", self.keys)
        found = [leaf for name, leaves in self.keys.items() if name.lower() in _NAMES["id"] for leaf in leaves]
        if len(found) > 1:
            raise self.error("id", "which column holds the ids is not clear")
        return found[0] if found else None

    def _given(self, role: ColumnRole, candidates: Mapping[str, list[Leaf]]) -> Leaf | None:
        name = self.given[role]
        if not name and role != "image":
            return None
        if len(leaves := candidates.get(name, [])) != 1:
            raise self.error(role, f"no column {name!r} holds {role}s")
        return leaves[0]

    def error(self, role: ColumnRole, problem: str) -> UserError:
        """An error that lists all columns and shows the option that names one."""
        none = f", or `{role}=` if the rows have no {role}s" if role != "image" else ""
        option = f"--columns {role}=NAME{none}"
        return UserError(printable(f"{self.uri}: {problem}; give {option}; its columns are {self.all}"))


def _fields(fields: Iterable[pa.Field], above: Leaf = ()) -> Iterator[tuple[Leaf, pa.DataType]]:
    """Yields the names and the type of each field, also of those inside structs."""
    for field in fields:
        leaf = (*above, field.name)
        yield leaf, field.type
        if pa.types.is_struct(field.type):
            yield from _fields(field.type, leaf)


def _named(struct: pa.DataType, name: str) -> list[pa.Field]:
    return [field for field in struct if field.name == name]


def _path_beside(schema: pa.Schema, image: Leaf) -> Leaf | None:
    beside = (*image[:-1], "path")
    return next((leaf for leaf, kind in _fields(schema) if len(leaf) > 1 and leaf == beside and _is_text(kind)), None)


def _is_bytes(kind: pa.DataType | None) -> bool:
    return _values(kind) in (pa.binary(), pa.large_binary())


def _is_text(kind: pa.DataType | None) -> bool:
    return _values(kind) in (pa.string(), pa.large_string())


def _is_name(kind: pa.DataType | None) -> bool:
    return _is_text(kind) or (kind is not None and pa.types.is_integer(kind))


def _values(kind: pa.DataType | None) -> pa.DataType | None:
    return kind.value_type if kind is not None and pa.types.is_dictionary(kind) else kind
