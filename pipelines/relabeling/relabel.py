"""`relabel`: writes a new version of a data set with new labels, each row exactly once, and scores every old label.

The version holds labels only. For each file of the data set one actor writes a file of labels with the same row groups,
and a receipt. The manifest, which refers to the images, is written last. After a kill, the same command continues with
the files that have no receipt.
"""

import heapq
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np
from ray.util import metrics

from dmlcsr.quality import ConfidenceSums
from dmlcsr.refine import Policy
from dmlcsr.taxonomy import Taxonomy
from pipelines import storage
from pipelines.config.base import SPLITS, Split
from pipelines.config.commands import RelabelConfig
from pipelines.data import dataset, packing, row_groups
from pipelines.data.dataset import DataFile, Manifest
from pipelines.data.packing import SampleProblem, Shard
from pipelines.data.row_groups import SplitFiles
from pipelines.data.versions import References
from pipelines.errors import UserError
from pipelines.models import model_directory, parsers
from pipelines.models.actors import map_options, max_actors, needs
from pipelines.relabeling import folds, suspects
from pipelines.relabeling.actors import RefineActor, RelabelPlan, ThresholdActor
from pipelines.relabeling.counts import MAX_SUSPECTS, RelabelCounts
from pipelines.run import claims, preflight, run_directory
from pipelines.run.driver_log import driver_log
from pipelines.run.progress import RowProgress
from pipelines.run.session import ray_session
from pipelines.run.waiting import told_waits

logger = logging.getLogger(__name__)
MAY_DIFFER = ("actors", "suspects", "max_bad_fraction", "base")
"""Options that change no row and may differ when the command is repeated, also on a finished version."""


class RelabelResult(TypedDict):
    """The result of `relabel`."""

    out: str
    num_rows: dict[Split, int]
    num_changed_rows: int
    num_quarantined: int
    mean_quality: float | None
    """Mean score of the old labels, 0 to 1; None if no row had a label."""
    resumed: bool


def run(config: RelabelConfig) -> RelabelResult:
    """Writes the new version, or continues it, and writes the files of suspect rows."""
    manifest = dataset.read_manifest(config.data, config.base)
    config = config.model_copy(update={"splits": splits_of(config, manifest)})
    lineage, resumed = lineage_of(config, manifest), False
    claim = ("relabel", config, config.out, {name: lineage[f"{name}_digest"] for name in ("data", "model")}, MAY_DIFFER)
    config = claims.find_claim(*claim) or config
    if dataset.is_complete(config.out):
        logger.info("%s is finished; nothing to do", config.out)
    else:
        check_inputs(config, manifest)
        with claims.claim_output(*claim) as claimed, driver_log(config.out):
            resumed = claimed.resumed
            if not dataset.is_complete(config.out):  # another driver may have finished it meanwhile
                build(claimed.config, manifest, lineage_of(claimed.config, manifest))
    made = dataset.read_manifests([config.data, config.out], config.base)[1]
    suspects.write(config.out, config.suspects, made)
    return {
        "out": config.out,
        "num_rows": made.num_rows(),
        "num_changed_rows": made.relabelled["num_changed_rows"],
        "num_quarantined": made.num_quarantined,
        "mean_quality": made.relabelled["mean_quality"],
        "resumed": resumed,
    }


def summary(result: RelabelResult) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in result["num_rows"].items())
    quality = result["mean_quality"]
    lines = [f"wrote {counts} rows to {result['out']}; {result['num_changed_rows']} of them have a changed label"]
    if quality is not None:
        lines.append(f"mean quality of the old labels: {quality:.3f} (0 wrong, 1 right)")
    if result["num_quarantined"]:
        lines.append(f"{result['num_quarantined']} bad rows are in {result['out']}/{packing.QUARANTINE}")
    return "\n".join(lines)


def check_inputs(config: RelabelConfig, manifest: Manifest) -> None:
    """Raises UserError for faults that would otherwise only fail on the actors.

    Logs a warning if the teacher was trained on the labels that it shall correct.
    """
    rows = manifest.num_rows()
    if not any(rows.get(split) for split in config.splits):
        raise UserError(f"{config.data} has no {' or '.join(config.splits)} rows to relabel")
    if config.folds is not None:
        folds.check(config, manifest)
        return
    _, card = parsers.read_parser(config.model)
    if manifest.label_taxonomy is not None:
        model_directory.require_taxonomy(config.model, card, config.data, manifest.label_taxonomy)
    if model_directory.has_seen(card, manifest.origins):
        logger.warning(
            "%s was trained on the images and labels of %s: it may repeat their errors, and its scores of them are too "
            "high; --folds avoids this",
            config.model,
            config.data,
        )


def splits_of(config: RelabelConfig, manifest: Manifest) -> tuple[Split, ...]:
    """The splits that get new labels: all of them if no row has a label that could stay as it is."""
    return config.splits if manifest.label_taxonomy is not None else SPLITS


def lineage_of(config: RelabelConfig, manifest: Manifest) -> dict[str, Any]:
    """The inputs that decide the rows of the new version. Versions with the same lineage have the same rows."""
    names = ("model", "data", "policy", "splits", "folds", "tta")
    teacher = folds.digest(config) if config.folds is not None else parsers.digest(config.model)
    return {
        "command": "relabel",
        **config.model_dump(mode="json", include=set(names)),
        "label_weight": config.label_weight if config.policy == "blend" else None,
        "model_digest": teacher,
        "data_digest": manifest.digest,
        "origins": manifest.origins,
    }


def taxonomy_of(config: RelabelConfig, manifest: Manifest) -> Taxonomy:
    """The classes of the new labels: those of the old ones, or the model's if there are none."""
    return manifest.label_taxonomy or parsers.read_card(config.model).taxonomy


def build(config: RelabelConfig, manifest: Manifest, lineage: dict[str, Any]) -> None:
    """Makes the new version in the claimed output and commits it."""
    teachers = [config.model] if config.folds is None else folds.train_models(config)
    taxonomy = taxonomy_of(config, manifest)
    sources = {split: row_groups.open_split(config.data, manifest, split) for split in config.splits}
    shards = [shard for split, source in sources.items() for shard in make_shards(split, source)]
    job = RelabelPlan(
        out=config.out,
        sources=sources,
        models=teachers,
        policy=Policy(name=config.policy, label_weight=config.label_weight),
        tta=config.tta,
        use_gpu=config.actors.use_gpu,
        batch_size=config.actors.batch_size,
        rows_per_group=manifest.rows_per_group,
    )
    with ray_session(needs(config.actors), manifest.inputs(config.data)):
        if config.policy == "confident":
            thresholds = tuple(estimate_thresholds(config, job, shards, taxonomy.num_classes))
            job = replace(job, policy=replace(job.policy, thresholds=thresholds))
        made: dict[tuple[Split, int], DataFile] = {}
        counts, rejected = RelabelCounts.zeros(taxonomy.num_classes), []
        for answer in _answers(config, RefineActor, job, shards, "relabelled"):
            counts += RelabelCounts.from_dict(answer["tally"])
            rejected += answer["rejected"]
            made[answer["split"], answer["number"]] = DataFile.model_validate(answer["file"])
    finish_version(config, manifest, lineage, job, made, counts, rejected)


def make_shards(split: Split, source: SplitFiles) -> list[Shard]:
    """A shard `[file]` for each file."""
    return [Shard(split, file, [file]) for file in range(len(source.files))]


def _answers(
    config: RelabelConfig, actor: type[Any], job: RelabelPlan, shards: Sequence[Shard], verb: str
) -> Iterator[dict[str, Any]]:
    """Yields the results of all shards as they arrive, and logs progress with the participle `verb`.

    Raises UserError as soon as more than `config.max_bad_fraction` of all rows are bad.
    """
    num_rows, num_bad = sum(source.num_rows for source in job.sources.values()), 0
    progress = RowProgress(verb, num_rows)
    speed = metrics.Gauge("relabel_images_per_second", "Rows per second of the current pass.")
    tasks = packing.shard_rows(shards).map(actor, fn_constructor_kwargs={"job": job}, **map_options(config.actors))
    rows: Any = iter(tasks.iter_batches(batch_size=1, prefetch_batches=0))  # a prefetch delays results by one file
    try:
        actors = config.actors
        largest = max_actors(actors, preflight.capacity())
        what = f"the next of {len(shards)} files from {actors.min_actors} to {largest} actors"
        bound = "no limit; needs a free CPU, or GPU with actors.use_gpu, for each actor"
        for row in told_waits(rows, what, bound, logging.INFO):
            answer = json.loads(row["answer"][0])
            progress.add(answer["num_rows"], bool(row["is_kept"][0]))
            speed.set(progress.rate)
            num_bad += len(answer["rejected"])
            if num_bad > config.max_bad_fraction * num_rows:
                raise UserError(
                    f"{num_bad} of the {num_rows} rows of {config.data} are bad, more than --max-bad-fraction "
                    f"{config.max_bad_fraction:g}; the last: {packing.in_words(answer['rejected'][-1])}; the "
                    "same command with a larger fraction continues"
                )
            yield answer
    finally:
        rows.close()  # before the cluster ends: Ray Data would start another one to clean up


def estimate_thresholds(
    config: RelabelConfig, job: RelabelPlan, shards: Sequence[Shard], num_classes: int
) -> list[float]:
    """The threshold of each class c: the mean probability of c over the pixels that are labelled c."""
    sums = ConfidenceSums.zeros(num_classes)
    answers = _answers(config, ThresholdActor, job, shards, "estimated thresholds from")
    # Sorted, because rounding depends on the order of a sum, and the order of arrival may differ after a kill.
    for answer in sorted(answers, key=lambda answer: answer["total"]):
        sums += ConfidenceSums(np.array(answer["total"]), np.array(answer["num_pixels"]))
    return sums.thresholds()


def finish_version(
    config: RelabelConfig,
    manifest: Manifest,
    lineage: dict[str, Any],
    job: RelabelPlan,
    made: Mapping[tuple[Split, int], DataFile],
    counts: RelabelCounts,
    rejected: Sequence[SampleProblem],
) -> None:
    """Writes the worst rows and then the manifest, which completes the new version.

    `made` holds the files of labels by split and number; other files of `manifest` are kept.
    """
    references = References(config.data, manifest)
    files = {
        split: [
            references.relabel(made[split, number], file) if (split, number) in made else references.keep(file)
            for number, file in enumerate(manifest.splits.get(split, ()))
        ]
        for split in SPLITS
    }
    taxonomy = taxonomy_of(config, manifest)
    storage.write_json(storage.join(config.out, suspects.WORST), {"worst": heapq.nsmallest(MAX_SUSPECTS, counts.worst)})
    relabelled = counts.summary(taxonomy) | {
        "thresholds": dict(zip(taxonomy.classes, job.policy.thresholds, strict=False)) or None,
        "models": [{"model": model, "weights_sha256": parsers.digest(model)} for model in job.models],
        "trained_on_data": False
        if config.folds
        else model_directory.has_seen(parsers.read_card(config.model), manifest.origins),
        "software": run_directory.software(),
    }
    more = {"rows_per_group": manifest.rows_per_group, "relabelled": relabelled, "bases": tuple(references.bases)}
    packing.write_manifest(config.out, taxonomy, files, rejected, lineage, **more)
