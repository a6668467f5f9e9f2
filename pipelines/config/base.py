"""The base of all configurations, and the types of their values."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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
