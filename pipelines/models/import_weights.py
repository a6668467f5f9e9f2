"""`import-weights` converts the authors' checkpoint, or an ImageNet ResNet, to a model directory."""

import logging
from typing import TypedDict

from dmlcsr.pretrained import import_checkpoint, read_checkpoint
from pipelines import storage
from pipelines.config.commands import ImportWeightsConfig
from pipelines.config.taxonomies import read_taxonomy
from pipelines.errors import UserError
from pipelines.models import model_directory
from pipelines.run import claims

logger = logging.getLogger(__name__)


class ImportResult(TypedDict):
    """The result of `import-weights`."""

    out: str
    loaded: int
    """Number of weights that were loaded."""
    missing: list[str]
    """Names of weights that the file lacks."""
    unexpected: list[str]
    """Names in the file that the network lacks."""


def run(config: ImportWeightsConfig) -> ImportResult:
    """Writes the model directory. Raises UserError if the checkpoint cannot be read or converted."""
    taxonomy = read_taxonomy(config.taxonomy)
    try:
        state = read_checkpoint(storage.read_bytes(config.checkpoint))
        network, card, report = import_checkpoint(state, taxonomy)
    except ValueError as error:
        raise UserError(f"{config.checkpoint}: {error}") from error
    with claims.claim_anew("import-weights", config, config.out):
        model_directory.write_model(config.out, network, card)
    return {
        "out": config.out,
        "loaded": len(report.loaded),
        "missing": list(report.missing),
        "unexpected": list(report.unexpected),
    }


def summary(result: ImportResult) -> str:
    lines = [f"loaded {result['loaded']} weights; the model is in {result['out']}"]
    for kind in ("missing", "unexpected"):
        names = result[kind]
        if names:
            lines.append(f"{len(names)} {kind}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}")
    return "\n".join(lines)
