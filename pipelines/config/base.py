"""The base of all configurations, and the types of their values."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pipelines.config.taxonomies import name_or_uri
from pipelines.errors import UserError
from pipelines.storage import absolute


class Metavar(str):
    """A placeholder that `--help` shows for a value, as `URI`, if the type alone would not explain it."""


def _uri(value: str) -> str:
    try:
        return absolute(value)
    except UserError as error:
        raise ValueError(str(error)) from error


def _taxonomy(value: str) -> str:
    try:
        return name_or_uri(value)
    except UserError as error:
        raise ValueError(str(error)) from error


Uri = Annotated[str, AfterValidator(_uri), Metavar("URI")]


def by_comma(value: Any) -> Any:
    """Parses `A,B` into a tuple, also the single URI in claims of earlier releases; returns a tuple unchanged."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _different(uris: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(uris)) < len(uris):
        raise ValueError("each folder must be named once")
    return uris


Uris = Annotated[
    tuple[Uri, ...],
    BeforeValidator(by_comma),
    AfterValidator(_different),
    Field(min_length=1),
    Metavar("URI,..."),
]
Fraction = Annotated[float, Field(ge=0, le=1)]
TaxonomyName = Annotated[str, AfterValidator(_taxonomy), Metavar("NAME_OR_FILE")]
"""The name of a built-in taxonomy, or the URI of a YAML file. `taxonomies.read_taxonomy` reads it."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Config(BaseModel):
    """The base of all configurations.

    Unknown keys are errors and values are immutable. The docstring of a field is its help text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class DataConfig(Config):
    """The base of the configurations of commands that read a data set."""

    base: Uris | None = None
    """Present folders of data sets that have moved since `relabel` made a version of them, as `A,B`. A version refers
    to their images, and recognizes each by its digest. null: none has moved."""
