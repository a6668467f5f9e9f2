"""Model directories on storage."""

from collections.abc import Mapping

from dmlcsr.model import FaceParser
from dmlcsr.taxonomy import Taxonomy
from dmlcsr.weights import MODEL_FILES, ModelCard, pack_model, unpack_model
from pipelines import storage
from pipelines.errors import UserError
from pipelines.run.paths import RunPaths

WEIGHTS, CARD = MODEL_FILES


def locate(uri: str) -> str:
    """The model directory at `uri`, or inside it where `uri` is a run. Raises UserError where there is none."""
    for folder in (uri, RunPaths(uri).model):
        if storage.exists(storage.join(folder, CARD)):
            return folder
    raise UserError(f"{uri} holds no model: neither {CARD} nor model/{CARD} is there; has the run finished?")


def read_model(uri: str) -> tuple[FaceParser, ModelCard]:
    """The network in eval mode and its card. Raises UserError where the files are missing or damaged."""
    folder = locate(uri)
    try:
        return unpack_model({name: storage.read_bytes(storage.join(folder, name)) for name in MODEL_FILES})
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error


def read_card(uri: str) -> ModelCard:
    """The card alone. Raises UserError where it is missing or damaged."""
    place = storage.join(locate(uri), CARD)
    content = storage.read_json(place)
    try:
        return ModelCard.from_json(content)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error


def weights_digest(uri: str) -> str:
    """sha256 of the model's weights."""
    return str(storage.read_json(storage.join(locate(uri), CARD)).get("weights_sha256"))


def write_model(folder: str, parser: FaceParser, card: ModelCard) -> None:
    """Writes a model directory; the card, which names the weights' digest, comes last."""
    files: Mapping[str, bytes] = pack_model(parser, card)
    storage.write_bytes(storage.join(folder, WEIGHTS), files[WEIGHTS])
    storage.write_bytes(storage.join(folder, CARD), files[CARD])


def has_seen(card: ModelCard, origin: str) -> bool | None:
    """Whether the model, or one that it began with or learned from, was trained on a data set of this `origin`.

    None where that is unknown.
    """
    return origin in known if (known := origins(card)) is not None else None


def origins(card: ModelCard) -> list[str] | None:
    """Of all data that the model has learned from; None where that is unknown."""
    found = card.lineage.get("origins")
    return [str(origin) for origin in found] if isinstance(found, list) else None


def require_taxonomy(uri: str, card: ModelCard, data: str, taxonomy: Taxonomy) -> None:
    """Raises UserError where model and data do not speak of the same classes."""
    if card.taxonomy != taxonomy.name:
        raise UserError(
            f"the model {uri} knows the classes of {card.taxonomy}, the data set {data} has those of "
            f"{taxonomy.name}; ingest the data with --remap-to {card.taxonomy} or use another model"
        )
