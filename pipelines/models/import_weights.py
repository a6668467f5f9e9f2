"""`import-weights`: the authors' checkpoint, or an ImageNet ResNet, becomes a model directory."""

import logging
from typing import Any

from dmlcsr.model import DMLCSR
from dmlcsr.pretrained import import_checkpoint, read_checkpoint
from dmlcsr.taxonomy import get_taxonomy
from pipelines import storage
from pipelines.config.commands import ImportWeightsConfig
from pipelines.errors import UserError
from pipelines.models import model_directory
from pipelines.run import claims

logger = logging.getLogger(__name__)


def run(config: ImportWeightsConfig) -> dict[str, Any]:
    """Writes the model; `{"out", "loaded", "missing", "unexpected"}`, the last two with names."""
    try:
        state = read_checkpoint(storage.read_bytes(config.checkpoint))
        network, card, report = import_checkpoint(state, get_taxonomy(config.taxonomy))
    except ValueError as error:
        raise UserError(f"{config.checkpoint}: {error}") from error
    parser = network.decoupled() if isinstance(network, DMLCSR) else network
    with claims.claim_anew("import-weights", config, config.out):
        model_directory.write_model(config.out, parser, card)
    return {
        "out": config.out,
        "loaded": len(report.loaded),
        "missing": list(report.missing),
        "unexpected": list(report.unexpected),
    }


def summary(result: dict[str, Any]) -> str:
    lines = [f"loaded {result['loaded']} weights; the model is in {result['out']}"]
    for kind in ("missing", "unexpected"):
        names = result[kind]
        if names:
            lines.append(f"{len(names)} {kind}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}")
    return "\n".join(lines)
