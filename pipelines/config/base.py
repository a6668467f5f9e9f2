"""The base of all configurations, and the types of their values."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dmlcsr.taxonomy import get_taxonomy
from pipelines.errors import UserError
from pipelines.storage import absolute


class Metavar(str):
    """Stands for a value in the help of a command, where the type alone says little."""


def _uri(value: str) -> str:
    try:
        return absolute(value)
    except UserError as error:
        raise ValueError(str(error)) from error


def _taxonomy(value: str) -> str:
    return get_taxonomy(value).name


Uri = Annotated[str, AfterValidator(_uri), Metavar("URI")]
Fraction = Annotated[float, Field(ge=0, le=1)]
TaxonomyName = Annotated[str, AfterValidator(_taxonomy), Metavar("NAME")]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Config(BaseModel):
    """Base of all configurations: unknown keys are errors, values are immutable, the text under a field is its help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
