"""`plan COMMAND ...` shows what a command would need and do, and what is missing, without running it."""

import logging
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict

from pipelines import storage
from pipelines.config.base import SPLITS, Config
from pipelines.config.commands import (
    ActorsConfig,
    CopyConfig,
    EvaluateConfig,
    IngestConfig,
    InspectConfig,
    MergeConfig,
    PredictConfig,
    RelabelConfig,
    SynthConfig,
)
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.data import dataset, merge, traffic
from pipelines.data.traffic import Traffic
from pipelines.errors import UserError
from pipelines.ingest import ingest, raw_files
from pipelines.models import actors, model_directory, parsers, setup
from pipelines.relabeling import relabel
from pipelines.run import preflight, ray_settings, run_directory
from pipelines.run.preflight import Capacity, Needs
from pipelines.run.session import ray_session
from pipelines.training import train
from pipelines.tuning import tune

logger = logging.getLogger(__name__)
Work = Mapping[str, float]


class Plan(NamedTuple):
    """The plan of one command."""

    needs: Needs
    """Resources that the command holds at the same time."""
    work: Work
    """Amounts by name, for example `{"rows": 600, "bytes_read": 12000000}`."""
    actors: ActorsConfig | None = None
    """The actor pool of the command; None if it has none."""
    num_images: int = 0
    """Number of images that the command takes one after the other; 0 if its time does not follow from them."""
    measured: float | None = None
    """Images per second that an earlier attempt has reached; None if unknown."""


class PlanResult(TypedDict):
    """The result of `plan`. If an input is missing, `needs` and `work` are empty."""

    command: str
    needs: dict[str, float]
    work: Work
    missing: list[str]
    """A sentence for each thing that is missing."""


def images_per_second(text: str | None) -> float | None:
    """The value of `--images-per-second`. Raises UserError if it is no number above 0."""
    try:
        rate = None if text is None else float(text)
    except ValueError:
        rate = math.nan
    if rate is None or 0 < rate < math.inf:
        return rate
    raise UserError(f"--images-per-second: expected a number above 0 (got {text!r})")


def run(command: str, config: Config, rate: float | None = None) -> PlanResult:
    """Plans the command, with `rate` images per second if it is given. Raises UserError if it has no plan."""
    if type(config) not in PLANS:
        names = ", ".join(kind.__name__.removesuffix("Config").lower() for kind in PLANS)
        raise UserError(f"`{command}` has no plan; these commands have one: {names}")
    problems: list[str] = []
    plan = _checked(lambda: PLANS[type(config)](config), problems)
    if (out := getattr(config, "out", None)) is not None:
        _checked(lambda: storage.check_writable(out), problems)
    work = plan.work if plan else {}
    cluster = plan and _cluster(plan.needs, problems)
    if plan is not None and cluster is not None:
        problems += preflight.shortfalls(plan.needs, cluster)
        if (remark := preflight.idle_gpus(plan.needs, cluster)) is not None:
            logger.info(remark)
        if plan.actors is not None:
            work = {**work, "actors_at_most": actors.max_actors(plan.actors, cluster)}
    if plan is not None and plan.num_images and (speed := rate or plan.measured) is not None:
        work = {**work, "images_per_second": speed, "hours": plan.num_images / speed / 3600}
    return {
        "command": command,
        "needs": {name: value for name, value in plan.needs._asdict().items() if name != "gpu_option"} if plan else {},
        "work": work,
        "missing": problems,
    }


def summary(result: PlanResult) -> str:
    """Formats a plan for a terminal: one line per number, sizes in MB."""
    rows = [(name.replace("_", " "), _text(name, value)) for name, value in _facts(result).items()]
    width = max((len(name) for name, _ in rows), default=0)
    lines = [f"{result['command']} would need and do:", *(f"  {name:{width}}  {text}" for name, text in rows)]
    problems = [f"missing: {problem}" for problem in result["missing"]]
    return "\n".join([*(lines if rows else []), *(problems or ["nothing is missing"])])


def _facts(result: PlanResult) -> dict[str, float]:
    return {name: value for name, value in {**result["needs"], **result["work"]}.items() if value}


def _text(name: str, value: float) -> str:
    if "bytes" in name:
        return f"{value / 1e6:,.1f} MB"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3g}"


def _checked(step: Callable[[], Plan | None], problems: list[str]) -> Plan | None:
    try:
        return step()
    except UserError as error:
        problems.append(str(error))
        return None


def _cluster(needs: Needs, problems: list[str]) -> Capacity | None:
    """The capacity of the cluster of RAY_ADDRESS, or of the one that the command would start here.

    Returns None, with the reason in `problems`, if the cluster does not answer or a disk of it is full.
    """
    if not os.environ.get(ray_settings.ADDRESS):
        return preflight.local_capacity(needs)
    try:
        with ray_session(Needs(cpus=0)):
            return preflight.capacity()
    except UserError as error:
        problems.append(str(error))
        return None


def _train(config: TrainConfig) -> Plan:
    manifest = dataset.read_manifest(config.data, config.base)
    train.check_inputs(config, manifest)
    workers, rows = config.workers.num_workers, manifest.num_rows()
    steps = setup.train_stream(config, manifest, 0, workers).num_batches // config.optimizer.accumulation_steps
    process_bytes = train.worker_bytes(config, manifest.taxonomy)
    at_once = train.needs(config, process_bytes)
    read = traffic.reading(manifest, ("train", "val"), workers * config.workers.at_least()[1])
    work: Work = {
        "training_rows": rows.get("train", 0),
        "validation_rows": rows.get("val", 0),
        "steps_of_an_epoch": steps,
        "epochs": config.num_epochs,
        "steps": steps * config.num_epochs,
        "bytes_read_in_an_epoch": read.num_bytes,
        "requests_in_an_epoch": read.requests,
    }
    num_images = config.num_epochs * rows.get("train", 0)
    if isinstance(config, TuneConfig):
        work = {
            **work,
            "trials": config.num_trials,
            "epochs_of_all_trials_at_most": config.num_trials * config.max_epochs,
        }
        at_once = tune.min_start_needs(config, tune.autoscaler_limits(config), process_bytes)
        num_images = config.num_trials * config.max_epochs * rows.get("train", 0)
    epochs = run_directory.read_metrics(config.out)
    measured = epochs[-1].get("images_per_second") if epochs else None
    return Plan(at_once, work, num_images=num_images, measured=measured)


def _on_actors(config: EvaluateConfig | RelabelConfig) -> Plan:
    manifest = dataset.read_manifest(config.data, config.base)
    _, card = parsers.read_parser(config.model)
    if manifest.label_taxonomy is not None or isinstance(config, EvaluateConfig):
        model_directory.require_taxonomy(config.model, card, config.data, manifest.taxonomy)
    splits = relabel.splits_of(config, manifest) if isinstance(config, RelabelConfig) else (config.split,)
    num_rows = sum(file.num_rows for split in splits for file in manifest.splits.get(split, ()))
    if not num_rows:
        raise UserError(f"{config.data} has no {' or '.join(splits)} rows")
    read = traffic.reading(manifest, splits)
    written = Traffic(0, 0)
    if isinstance(config, RelabelConfig):
        written = traffic.writing_labels(config.data, manifest, splits)
    return Plan(actors.needs(config.actors), {"rows": num_rows, **_amounts(read, written)}, config.actors, num_rows)


def _predict(config: PredictConfig) -> Plan:
    parsers.read_parser(config.model)
    num_images = len(raw_files.list_images(config.images))
    return Plan(actors.needs(config.actors), {"images": num_images}, config.actors, num_images)


def _ingest(config: IngestConfig) -> Plan:
    with tempfile.TemporaryDirectory() as folder:
        listing = ingest.open_source(config, folder).listing
    samples = {f"{split}_samples": count for split, count in listing.samples.num_rows().items()}
    rest = {"rejected_samples": listing.num_rejected, "ignored_files": sum(listing.ignored.counts().values())}
    return Plan(Needs(1), {**samples, **rest}, num_images=sum(samples.values()))


def _inspect(config: InspectConfig) -> Plan:
    return Plan(Needs(1), {"rows": sum(dataset.read_manifest(config.data, config.base).num_rows().values())})


def _merge(config: MergeConfig) -> Plan:
    manifests = dataset.read_manifests(config.data, config.base)
    merge.common_taxonomy(config.data, manifests)
    rows = sum(sum(manifest.num_rows().values()) for manifest in manifests)
    read, written = (
        sum((of(manifest, SPLITS) for manifest in manifests), Traffic(0, 0))
        for of in (traffic.reading, traffic.writing_copy)
    )
    return Plan(Needs(1), {"rows": rows, **_amounts(read, written)}, num_images=rows)


def _copy(config: CopyConfig) -> Plan:
    manifest = dataset.read_manifest(config.data, config.base)
    rows = sum(manifest.num_rows().values())
    amounts = _amounts(traffic.reading(manifest, SPLITS), traffic.writing_copy(manifest, SPLITS))
    return Plan(Needs(1), {"rows": rows, **amounts}, num_images=rows)


def _synth(config: SynthConfig) -> Plan:
    return Plan(Needs(1), {"images": config.num_images}, num_images=config.num_images)


def _amounts(read: Traffic, written: Traffic) -> Work:
    return {
        "bytes_read": read.num_bytes,
        "bytes_written": written.num_bytes,
        "requests": read.requests + written.requests,
    }


PLANS: Mapping[type[Config], Callable[[Any], Plan]] = {
    TrainConfig: _train,
    TuneConfig: _train,
    EvaluateConfig: _on_actors,
    RelabelConfig: _on_actors,
    PredictConfig: _predict,
    IngestConfig: _ingest,
    InspectConfig: _inspect,
    MergeConfig: _merge,
    CopyConfig: _copy,
    SynthConfig: _synth,
}
