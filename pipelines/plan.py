"""`plan COMMAND ...` shows what a command would need and do, and what is missing, without running it."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict

from pipelines import storage
from pipelines.config.base import SPLITS, Config, Split
from pipelines.config.commands import (
    ActorsConfig,
    EvaluateConfig,
    IngestConfig,
    InspectConfig,
    MergeConfig,
    PredictConfig,
    RelabelConfig,
    SynthConfig,
)
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.data import dataset, merge, row_groups
from pipelines.errors import UserError
from pipelines.ingest import ingest, raw_files
from pipelines.models import actors, model_directory, parsers, setup
from pipelines.relabeling import relabel
from pipelines.run import preflight, ray_settings
from pipelines.run.preflight import Capacity, Needs
from pipelines.run.session import ray_session
from pipelines.training import train
from pipelines.tuning import tune

logger = logging.getLogger(__name__)
Work = dict[str, int]


class Plan(NamedTuple):
    """The plan of one command."""

    needs: Needs
    """Resources that the command holds at the same time."""
    work: Work
    """Amounts by name, for example `{"rows": 600, "bytes_read": 12000000}`."""
    actors: ActorsConfig | None = None
    """The actor pool of the command; None if it has none."""


class PlanResult(TypedDict):
    """The result of `plan`. If an input is missing, `needs` and `work` are empty."""

    command: str
    needs: dict[str, float]
    work: Work
    missing: list[str]
    """A sentence for each thing that is missing."""


def run(command: str, config: Config) -> PlanResult:
    """Plans the command. Raises UserError if it has no plan."""
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
            work = work | {"actors_at_most": actors.max_actors(plan.actors, cluster)}
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
    return f"{value / 1e6:,.1f} MB" if "bytes" in name else f"{value:,g}"


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
    manifest = dataset.read_manifest(config.data)
    train.check_inputs(config, manifest)
    workers, rows = config.workers.num_workers, manifest.num_rows()
    steps = setup.train_stream(config, manifest, 0, workers).num_batches // config.optimizer.accumulation_steps
    process_bytes = train.worker_bytes(config, manifest.taxonomy)
    at_once = train.needs(config, process_bytes)
    work = {
        "training_rows": rows.get("train", 0),
        "validation_rows": rows.get("val", 0),
        "steps_of_an_epoch": steps,
        "epochs": config.num_epochs,
        "steps": steps * config.num_epochs,
        "bytes_read_in_an_epoch": _bytes_of(manifest, "train", "val"),
    }
    if isinstance(config, TuneConfig):
        work |= {"trials": config.num_trials, "epochs_of_all_trials_at_most": config.num_trials * config.max_epochs}
        at_once = tune.min_start_needs(config, tune.autoscaler_limits(config), process_bytes)
    return Plan(at_once, work)


def _on_actors(config: EvaluateConfig | RelabelConfig) -> Plan:
    manifest = dataset.read_manifest(config.data)
    _, card = parsers.read_parser(config.model)
    if manifest.label_taxonomy is not None or isinstance(config, EvaluateConfig):
        model_directory.require_taxonomy(config.model, card, config.data, manifest.taxonomy)
    splits = relabel.splits_of(config, manifest) if isinstance(config, RelabelConfig) else (config.split,)
    sources_ = [row_groups.open_split(config.data, manifest, split) for split in splits]
    work = {"rows": sum(source.num_rows for source in sources_), "bytes_read": _bytes_of(manifest, *splits)}
    if not work["rows"]:
        raise UserError(f"{config.data} has no {' or '.join(splits)} rows")
    return Plan(actors.needs(config.actors), work, config.actors)


def _predict(config: PredictConfig) -> Plan:
    parsers.read_parser(config.model)
    work = {"images": len(raw_files.list_images(config.images))}
    return Plan(actors.needs(config.actors), work, config.actors)


def _ingest(config: IngestConfig) -> Plan:
    source = ingest.open_source(config)
    samples = {f"{split}_samples": len(found) for split, found in source.items.items()}
    rest = {"rejected_samples": len(source.rejected), "ignored_files": sum(source.ignored.values())}
    return Plan(Needs(1), samples | rest)


def _inspect(config: InspectConfig) -> Plan:
    return Plan(Needs(1), {"rows": sum(dataset.read_manifest(config.data).num_rows().values())})


def _merge(config: MergeConfig) -> Plan:
    manifests = [dataset.read_manifest(uri) for uri in config.data]
    merge.common_taxonomy(config.data, manifests)
    rows = sum(sum(manifest.num_rows().values()) for manifest in manifests)
    return Plan(Needs(1), {"rows": rows, "bytes_read": sum(_bytes_of(manifest, *SPLITS) for manifest in manifests)})


def _synth(config: SynthConfig) -> Plan:
    return Plan(Needs(1), {"images": config.num_images})


def _bytes_of(manifest: dataset.Manifest, *splits: Split) -> int:
    return sum(file.num_bytes for split in splits for file in manifest.splits.get(split, ()))


PLANS: Mapping[type[Config], Callable[[Any], Plan]] = {
    TrainConfig: _train,
    TuneConfig: _train,
    EvaluateConfig: _on_actors,
    RelabelConfig: _on_actors,
    PredictConfig: _predict,
    IngestConfig: _ingest,
    InspectConfig: _inspect,
    MergeConfig: _merge,
    SynthConfig: _synth,
}
