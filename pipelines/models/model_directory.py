"""Reads and writes model directories on storage."""

import json
import logging
from collections.abc import Iterable

from torch import Tensor

from dmlcsr.model import DMLCSR, FaceParser
from dmlcsr.predict import ParserCard
from dmlcsr.taxonomy import Taxonomy, match
from dmlcsr.weights import EDGE_HEAD, MODEL_FILES, ModelCard, pack_model, unpack_edge_head, unpack_model
from pipelines import storage
from pipelines.errors import UserError
from pipelines.run.paths import RunPaths

logger = logging.getLogger(__name__)
WEIGHTS, CARD = MODEL_FILES


def locate(uri: str) -> str:
    """The URI of the model directory: `uri`, or `<uri>/model` if `uri` is a run. Raises UserError if there is none."""
    for folder in (uri, RunPaths(uri).model):
        if storage.exists(storage.join(folder, CARD)):
            return folder
    raise UserError(f"{uri} holds no model: neither {CARD} nor model/{CARD} exists; if it is a run, finish it")


def read_model(uri: str) -> tuple[FaceParser, ModelCard]:
    """Reads the network, in eval mode, and its card. Raises UserError if the files are missing or damaged."""
    folder = locate(uri)
    try:
        return unpack_model({name: storage.read_bytes(storage.join(folder, name)) for name in MODEL_FILES})
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error


def read_edge_head(uri: str) -> dict[str, Tensor]:
    """Reads the weights of the edge heads, or {} if the model has none. Raises UserError if they are damaged."""
    folder = locate(uri)
    card = storage.read_bytes(storage.join(folder, CARD))
    if "edge_head_sha256" not in json.loads(card):
        return {}
    try:
        return unpack_edge_head(card, storage.read_bytes(storage.join(folder, EDGE_HEAD)))
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error


def read_card(uri: str) -> ModelCard:
    """Reads the card alone. Raises UserError if it is missing or damaged."""
    card_uri = storage.join(locate(uri), CARD)
    content = storage.read_json(card_uri)
    try:
        return ModelCard.from_json(content)
    except ValueError as error:
        raise UserError(f"{card_uri}: {error}") from error


def weights_digest(uri: str) -> str:
    """The sha256 of the model's weights, as its card states it."""
    return str(storage.read_json(storage.join(locate(uri), CARD)).get("weights_sha256"))


def write_model(folder: str, network: FaceParser | DMLCSR, card: ModelCard) -> None:
    """Writes a model directory. The card, which holds the digests of the weights, is written last."""
    for name, data in pack_model(network, card).items():
        storage.write_bytes(storage.join(folder, name), data)


def has_seen(card: ParserCard, data_origins: Iterable[str]) -> bool | None:
    """True if the model, or one that it began with or learned from, was trained on data of one of these origins.

    None if that is unknown.
    """
    return not set(data_origins).isdisjoint(known) if (known := origins(card)) is not None else None


def origins(card: ParserCard) -> list[str] | None:
    """The origins of all data sets that the model has learned from; None if they are unknown."""
    found = card.lineage.get("origins")
    return [str(origin) for origin in found] if isinstance(found, list) else None


def require_taxonomy(uri: str, card: ParserCard, data: str, taxonomy: Taxonomy) -> None:
    """Raises UserError if classes, pairs or sides of model and data set differ; unknown sides are a warning."""
    found = match(card.taxonomy, taxonomy)
    if found == "classes differ":
        raise UserError(
            f"the model {uri} knows the classes of {card.taxonomy.name}, the data set {data} has those of "
            f"{taxonomy.name}; ingest the data with --remap-to {card.taxonomy.name} or use another model"
        )
    if found == "sides differ":
        raise UserError(
            f"the model {uri} and the data set {data} have the same classes, but left and right the other way round "
            f"({card.taxonomy.name} and {taxonomy.name}); ingest the data with a --remap-to that swaps them"
        )
    if found == "sides unknown":
        logger.warning(
            "%s or %s does not say which part of a pair is on the viewer's left; if left and right are the other way "
            "round in the other one, scores of pairs are wrong",
            uri,
            data,
        )
