"""`export` writes a model as one deployable file, after comparing the outputs of both."""

from typing import TypedDict

from dmlcsr import export
from dmlcsr.model import FaceParser
from dmlcsr.weights import ModelCard
from pipelines import storage
from pipelines.config.commands import ExportConfig
from pipelines.errors import UserError
from pipelines.models import model_directory


class ExportResult(TypedDict):
    """The result of `export`."""

    out: str
    max_abs_error: float
    """Largest absolute difference between the logits of the file and those of the model; with `--output labels`, by
    how much the model's logit of the file's class falls short of its largest logit."""


def run(config: ExportConfig) -> ExportResult:
    """Writes the file. Raises UserError, and writes nothing, if its logits are not those of the model."""
    storage.check_writable(config.out)
    parser, card = model_directory.read_model(config.model)
    try:
        data, error = _made(config, parser, card)
    except ImportError as missing:
        raise UserError(
            f"--format onnx needs the package {missing.name}; install the extra: "
            "pip install -c constraints.txt -e '.[onnx]'"
        ) from missing
    except ValueError as difference:
        raise UserError(f"{config.model} cannot be exported: {difference}") from difference
    storage.write_bytes(config.out, data)
    return {"out": config.out, "max_abs_error": error}


def summary(result: ExportResult) -> str:
    return f"wrote {result['out']}; its logits differ from the model's by at most {result['max_abs_error']:.1e}"


def _made(config: ExportConfig, parser: FaceParser, card: ModelCard) -> tuple[bytes, float]:
    if config.format == "safetensors":
        data = export.to_safetensors(parser, card)
        return data, export.safetensors_error(data, parser)
    names = ("output", "fixed_size", "opset", "float16")
    options = export.OnnxOptions(**config.model_dump(include=set(names)))
    data = export.to_onnx(parser, card, options)
    return data, export.onnx_error(data, parser, card.preprocessing.size, options)
