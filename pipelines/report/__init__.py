"""`report` writes one page about a training run, a sweep or a data set. It reads storage only."""

from typing import TypedDict

from pipelines import storage
from pipelines.config.commands import ReportConfig
from pipelines.config.training import TuneConfig
from pipelines.data import dataset
from pipelines.errors import UserError
from pipelines.report import page, relabelling, sweep, training
from pipelines.run import run_directory


class ReportResult(TypedDict):
    """The result of `report`."""

    out: str


def run(config: ReportConfig) -> ReportResult:
    """Writes the page. Raises UserError if `config.run` holds neither a run nor a data set."""
    storage.check_writable(config.out)
    title, lead, sections = _content(config)
    storage.write_bytes(config.out, page.page(title, lead, sections))
    return {"out": config.out}


def summary(result: ReportResult) -> str:
    return f"wrote {result['out']}"


def _content(config: ReportConfig) -> tuple[str, str, training.Sections]:
    uri = config.run
    name = uri.rstrip("/").rpartition("/")[2]
    settings = run_directory.read_config(uri)
    if isinstance(settings, TuneConfig):
        return f"Sweep {name}", f"{uri}: {settings.num_trials} trials on {settings.data}", sweep.sections(uri, settings)
    if settings is not None:
        return f"Training {name}", f"{uri}, trained on {settings.data}", training.sections(uri, settings)
    if not storage.exists(dataset.manifest_uri(uri)):
        raise UserError(f"{uri} holds neither a run nor a data set: nothing to report on")
    return f"Data set {name}", uri, relabelling.sections(uri, dataset.read_manifest(uri, config.base))
