"""Reads the models that only predict, as `--model` and `--teacher` name them: model directories, or ONNX files."""

import hashlib
from typing import Annotated, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from dmlcsr.onnx_parser import OnnxCard, OnnxParser, exported_card
from dmlcsr.predict import ParserCard
from dmlcsr.weights import Preprocessing
from pipelines import storage
from pipelines.config import plain_yaml
from pipelines.config.taxonomies import name_or_uri, read_taxonomy
from pipelines.errors import UserError
from pipelines.models import model_directory

SUFFIX = ".onnx"
_Level = Annotated[int, Field(ge=0, le=255)]


class _CardFile(BaseModel):
    """The content of the YAML file beside an ONNX file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    size: int
    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[float], Field(min_length=3, max_length=3)]
    channel_order: Literal["rgb", "bgr"] = "rgb"
    fit: Literal["letterbox", "stretch"]
    border_color: Annotated[list[_Level], Field(min_length=3, max_length=3)] = [0, 0, 0]
    output: str
    stride: int
    align_corners: bool = False
    taxonomy: str
    classes: Annotated[dict[str, str], Field(min_length=2, max_length=1000)]


def read_parser(uri: str) -> tuple[nn.Module, ParserCard]:
    """Reads a model, in eval mode, and its card. Raises UserError if a file is missing or damaged."""
    if not uri.endswith(SUFFIX):
        return model_directory.read_model(uri)
    data, card = _read_onnx(uri)
    try:
        return OnnxParser(data, card).eval(), card
    except ValueError as error:
        raise UserError(f"{uri}: {error}") from error


def read_card(uri: str) -> ParserCard:
    """Reads the card alone. Raises UserError if it is missing or damaged."""
    return _read_onnx(uri)[1] if uri.endswith(SUFFIX) else model_directory.read_card(uri)


def digest(uri: str) -> str:
    """The sha256 of a model's weights; of an ONNX file, with the card beside it."""
    if not uri.endswith(SUFFIX):
        return model_directory.weights_digest(uri)
    card = _card_uri(uri)
    files = [uri, card] if storage.exists(card) else [uri]
    return hashlib.sha256(b"".join(storage.read_bytes(file) for file in files)).hexdigest()


def home(uri: str) -> str:
    """The folder that a model belongs to: its run, or the folder of an ONNX file."""
    return uri.rpartition("/")[0] if uri.endswith(SUFFIX) else model_directory.locate(uri).removesuffix("/model")


def _card_uri(uri: str) -> str:
    return uri.removesuffix(SUFFIX) + ".yaml"


def _read_onnx(uri: str) -> tuple[bytes, OnnxCard]:
    """The content of an ONNX file, and its card: the YAML file beside it, or the one that `export` put into it."""
    data, card_uri = storage.read_bytes(uri), _card_uri(uri)
    try:
        if storage.exists(card_uri):
            return data, _parse(card_uri, storage.read_bytes(card_uri))
        if (inside := exported_card(data)) is not None:
            return data, inside
    except ImportError as missing:
        _needs_extra(uri, missing)
    except ValueError as error:
        raise UserError(f"{uri}: {error}") from error
    raise UserError(f"{uri} has no card: write {card_uri}, which says how the file is used (docs/weights.md)")


def _needs_extra(uri: str, missing: ImportError) -> NoReturn:
    raise UserError(
        f"{uri} needs the package {missing.name}; install the extra: pip install -c constraints.txt -e '.[onnx]'"
    ) from missing


def _parse(card_uri: str, content: bytes) -> OnnxCard:
    """The card of a YAML file. Raises UserError, with the key, for content that is not one."""
    try:
        card = _CardFile.model_validate(plain_yaml.load(content.decode()))
        taxonomy = read_taxonomy(name_or_uri(card.taxonomy))
        unknown = [name for name in card.classes.values() if name not in taxonomy.classes]
        if unknown:
            raise ValueError(f"classes names {unknown[0]!r}, which is no class of {taxonomy.name}")
        mean, std, border = card.mean, card.std, card.border_color
        return OnnxCard(
            preprocessing=Preprocessing(
                size=card.size,
                mean=(mean[0], mean[1], mean[2]),
                std=(std[0], std[1], std[2]),
                channel_order=card.channel_order,
                border_color=(border[0], border[1], border[2]),
                fit=card.fit,
            ),
            taxonomy=taxonomy,
            output=card.output,
            stride=card.stride,
            classes=tuple(taxonomy.classes.index(name) for name in card.classes.values()),
            align_corners=card.align_corners,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the card"
        raise UserError(f"{card_uri}: {where}: {first['msg']}") from error
    except ValueError as error:
        raise UserError(f"{card_uri}: {error}") from error
