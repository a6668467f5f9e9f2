"""`train`: the driver. It claims the run, starts the workers with Ray Train, and exports the best model."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict, cast

from ray.exceptions import RayActorError
from ray.train import LoggingConfig, TrainingFailedError, UserCallback

from dmlcsr.footprint import training_bytes
from dmlcsr.model import DMLCSR
from dmlcsr.taxonomy import Taxonomy
from dmlcsr.weights import load_matching
from pipelines import STARTED, storage
from pipelines.config.training import TrainConfig
from pipelines.data import dataset
from pipelines.data.dataset import Manifest
from pipelines.errors import RunFailedError, UserError, WorkersLostError
from pipelines.models import checkpoint, model_directory, parsers, setup, weight_files
from pipelines.regulation import orchestrator
from pipelines.regulation.ledger import Ensemble, Ledger, Trial, TrialEnd
from pipelines.regulation.orchestrator import TrialRef
from pipelines.run import claims, phases, preflight, result_file, run_directory
from pipelines.run.driver_log import driver_log
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.paths import RunPaths
from pipelines.run.preflight import Needs
from pipelines.run.ray_calls import get_result
from pipelines.run.ray_train import (
    CheckpointConfig,
    FailureConfig,
    Result,
    RunConfig,
    ScalingConfig,
    TorchTrainer,
)
from pipelines.run.session import ray_session
from pipelines.run.states import State
from pipelines.training import cores, loop
from pipelines.training.failures import EndOnUserError, user_error
from pipelines.training.placement import placement_log

logger = logging.getLogger(__name__)
MAY_DIFFER = ("workers", "gpu", "max_bad_fraction", "base")
"""Options that may change when a run continues: it may continue on other hardware."""


class TrialResult(TypedDict):
    """The result of one training."""

    run: str
    model: str
    val_mean_f1: float
    """The best validation mean F1, 0 to 1."""
    num_epochs: int
    num_cycles: int


class TrainResult(TrialResult):
    """The result of `train`."""

    resumed: bool


def run(config: TrainConfig) -> TrainResult:
    """Trains a run, or continues it. If the run is finished, returns its result."""
    manifest = dataset.read_manifest(config.data, config.base)
    inputs = {"data": manifest.digest}
    config = claims.find_claim("train", config, config.out, inputs, MAY_DIFFER) or config
    if (finished := result_file.earlier_result(config.out, "train")) is not None:
        return cast(TrainResult, finished)
    check_inputs(config, manifest)
    with ExitStack() as stack:
        claim = claims.claim_output("train", config, config.out, inputs, MAY_DIFFER)
        config, resumed = stack.enter_context(claim)
        stack.enter_context(driver_log(config.out))
        run_directory.describe(config, manifest.digest)
        wanted = needs(config, worker_bytes(config, manifest.taxonomy))
        stack.enter_context(ray_session(wanted, manifest.inputs(config.data)))
        config = with_settled_workers(config)
        if config.averages_students:
            stack.enter_context(orchestrator.orchestrator_actor(config.out))
        return {**train_trial(config, manifest, orchestrator.train_trial_ref(config.out)), "resumed": resumed}


def with_settled_workers(config: TrainConfig) -> TrainConfig:
    """The configuration with all numbers of its workers chosen. Raises UserError if the cluster lacks the resources."""
    present = preflight.capacity()
    settled = config.model_copy(update={"workers": cores.settled(config, present)})
    for problem in preflight.shortfalls(needs(settled), present):
        raise UserError(problem)
    return settled


def summary(result: TrainResult) -> str:
    score = f"{100 * result[VAL_MEAN_F1]:.2f} %"
    cycles = f", {result['num_cycles']} cycles of them" if result["num_cycles"] else ""
    return f"trained {result['num_epochs']} epochs{cycles}; best validation mean F1 {score}; model in {result['model']}"


def check_inputs(config: TrainConfig, manifest: Manifest) -> None:
    """Raises UserError for faults in the inputs that would otherwise only fail on the workers, minutes later."""
    taxonomy = manifest.taxonomy  # raises the error for a data set without labels
    rows = manifest.num_rows()
    if rows.get("val", 0) < config.workers.num_workers:
        raise UserError(
            f"{config.data} has {rows.get('val', 0)} validation rows; the best epoch is chosen on them, "
            f"and each of {config.workers.num_workers} workers needs one"
        )
    if setup.train_stream(config, manifest, 0, config.workers.num_workers).num_batches == 0:
        raise UserError(
            f"{config.data} has {rows.get('train', 0)} training rows, too few for one step of "
            f"{config.workers.num_workers} workers x {config.optimizer.accumulation_steps} x batch size "
            f"{config.optimizer.batch_size}; lower --optimizer.batch-size"
        )
    if config.teacher is not None:
        _, card = parsers.read_parser(config.teacher)
        model_directory.require_taxonomy(config.teacher, card, config.data, taxonomy)
    if config.csr.initial_run is not None:
        setup.check_initial_run(config, taxonomy)
    if config.init is not None:
        log_init_report(config, manifest)


def needs(config: TrainConfig, process_bytes: int = 0) -> Needs:
    """The CPUs and GPUs that one training needs at the same time, at least where the numbers are to be chosen.

    `process_bytes`: the result of `worker_bytes`, or 0 if memory is not checked.
    """
    workers = config.workers
    worker_cpus, decode_tasks = workers.at_least()
    cpus = workers.num_workers * (worker_cpus + decode_tasks)
    gpu_option = "" if workers.use_gpu else "--workers.use-gpu"
    gpus = workers.num_workers * workers.use_gpu
    return Needs(cpus, gpus, process_bytes, workers.num_workers, worker_cpus, gpu_option)


def worker_bytes(config: TrainConfig, taxonomy: Taxonomy) -> int:
    """The estimated memory of a training worker in bytes, without its decode tasks."""
    states = {"sgd": 1, "adamw": 2}[config.optimizer.name]
    architecture = setup.model_card(config, taxonomy).architecture
    return training_bytes(architecture, config.optimizer.batch_size, config.input.size, states)


def train_trial(
    config: TrainConfig, manifest: Manifest, trial_ref: TrialRef, callbacks: Sequence[UserCallback] = ()
) -> TrialResult:
    """Trains one trial with its cycles and exports its best model."""
    orchestrator_handle = orchestrator.connect(trial_ref.run) if config.averages_students else None
    if orchestrator_handle is not None:
        architecture = setup.model_card(config, manifest.taxonomy).architecture
        trial = Trial(
            trial=trial_ref.trial,
            architecture=asdict(architecture),
            taxonomy=manifest.taxonomy.name,
            num_cycles=config.csr.num_cycles,
        )
        get_result(orchestrator_handle.register.remote(trial), "the orchestrator's answer to register")
    result = fit(config, manifest, trial_ref, callbacks)
    phases.enter(config.out, "exporting")
    score = export_best(config, manifest, trial_ref, result)
    if orchestrator_handle is not None:
        end = TrialEnd(trial=trial_ref.trial, state=State.FINISHED)
        get_result(orchestrator_handle.finish_trial.remote(end), "the orchestrator's answer to finish_trial")
    return {
        "run": config.out,
        "model": RunPaths(config.out).model,
        VAL_MEAN_F1: score,
        "num_epochs": config.num_epochs,
        "num_cycles": config.csr.num_cycles,
    }


def log_init_report(config: TrainConfig, manifest: Manifest) -> None:
    """Logs which weights `--init` provides. Raises UserError if fewer than half of the encoder's weights fit."""
    assert config.init is not None
    network = DMLCSR(setup.model_card(config, manifest.taxonomy).architecture)
    report = load_matching(network, setup.starting_weights(config.init, manifest.taxonomy))
    encoder = {name for name, value in network.encoder.state_dict(prefix="encoder.").items() if value.ndim}
    if 2 * len(encoder & set(report.loaded)) < len(encoder):
        raise UserError(
            f"--init {config.init}: fewer than half of the encoder's weights fit depth {config.model.depth}, "
            f"width {config.model.width}; set --model.depth and --model.width to those of that model"
        )
    counts = len(report.loaded), len(report.missing), len(report.unexpected)
    logger.info("--init: %d weights loaded, %d missing, %d unexpected", *counts)
    for kind, names in (("missing", report.missing), ("unexpected", report.unexpected)):
        if names:
            logger.info("--init: %s: %s%s", kind, ", ".join(names[:8]), " ..." if len(names) > 8 else "")


def fit(config: TrainConfig, manifest: Manifest, trial_ref: TrialRef, callbacks: Sequence[UserCallback] = ()) -> Result:
    """Runs the workers to the end.

    Raises UserError as soon as a worker finds a fault in the inputs, RunFailedError if the loss is not finite, and
    WorkersLostError if workers or their controller were lost too often; a new attempt may then succeed.
    """
    failures = config.workers.max_failures
    lost_controllers = 0
    while True:
        num_epochs = len(run_directory.read_metrics(config.out))
        try:
            result: Result = build_torch_trainer(config, manifest, trial_ref, callbacks).fit()  # type: ignore[assignment]
            break
        except TrainingFailedError as error:
            if (cause := user_error(error)) is not None:
                raise cause from error
            # Ray Train counts from the start of `fit`. With max_failures 0, as in a sweep, the first loss ends it.
            if failures and (done := len(run_directory.read_metrics(config.out))) > num_epochs:
                logger.warning("workers were lost too often, but epochs were done; continuing from epoch %d", done + 1)
                continue
            raise WorkersLostError(
                f"training stopped after {failures} replacements of lost workers "
                f"(workers.max_failures): {_last_line(error)}; the same command continues from the last epoch"
            ) from error
        except RayActorError as error:  # Ray replaces lost workers, but not their controller
            done = len(run_directory.read_metrics(config.out))
            lost_controllers = 1 if done > num_epochs else lost_controllers + 1
            if lost_controllers > failures:
                raise WorkersLostError(
                    f"training lost its controller {lost_controllers} times; the same command continues from the last "
                    "epoch"
                ) from error
            logger.warning(
                "Ray Train's controller died; restarted (attempt %d of %d), continuing from epoch %d",
                lost_controllers + 1,
                failures + 1,
                done + 1,
            )
    answer: dict[str, Any] = result.return_value or {}
    if "failure" in answer:
        raise RunFailedError(f"{answer['failure']}; lower --optimizer.lr or set --optimizer.clip-norm")
    return result


def build_torch_trainer(
    config: TrainConfig, manifest: Manifest, trial_ref: TrialRef, callbacks: Sequence[UserCallback]
) -> TorchTrainer:
    """A Ray Train trainer. It finds the checkpoints of an earlier attempt in the run directory."""
    workers = config.workers
    fs, path = storage.arrow_filesystem(config.out)
    return TorchTrainer(
        loop.train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "manifest": manifest.model_dump(mode="json"),
            "started": STARTED,
            "trial_ref": trial_ref,
        },
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": workers.cpus_per_worker} | ({"GPU": 1} if workers.use_gpu else {}),
        ),
        run_config=RunConfig(
            name=PurePosixPath(RunPaths(config.out).checkpoints).name,
            storage_path=path,
            storage_filesystem=fs,
            failure_config=FailureConfig(
                max_failures=workers.max_failures, controller_failure_limit=workers.max_failures
            ),
            # One is enough: Ray Train keeps the latest checkpoint, from which a run resumes, beside the best one.
            checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=VAL_MEAN_F1),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[placement_log(config.out, trial_ref, workers), EndOnUserError(), *callbacks],
        ),
    )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def export_best(config: TrainConfig, manifest: Manifest, trial_ref: TrialRef, result: Result) -> float:
    """Writes `model/` from the student or ensemble with the best validation mean F1. Returns this score, 0 to 1."""
    saved, metrics = max(result.best_checkpoints or [], key=lambda pair: pair[1][VAL_MEAN_F1])
    score: float = metrics[VAL_MEAN_F1]
    origin: dict[str, Any] = {"epoch": metrics["epoch"]}
    ledger = Ledger(trial_ref.run, trial_ref.trial)
    ensemble = best_ensemble(ledger, trial_ref.trial)
    if ensemble is not None and ensemble.val_mean_f1 > score:
        score = ensemble.val_mean_f1
        origin = {"cycle": ensemble.cycle, "coefficients": dict(ensemble.coefficients)}
        state = weight_files.read_weights(ensemble.weights)
    else:
        with saved.as_directory() as folder:
            state = checkpoint.load_network(Path(folder))
    card = setup.model_card(config, manifest.taxonomy)
    network = DMLCSR(card.architecture)
    network.load_state_dict(state)
    scored = replace(
        card,
        metrics={VAL_MEAN_F1: score},
        lineage={
            "run": config.out,
            **origin,
            "teachers": ledger.teachers(trial_ref.trial),
            "data": config.data,
            "data_digest": manifest.digest,
            "origins": origins(config, manifest),
            "held_out_fold": config.held_out_fold,
        },
    )
    model_directory.write_model(RunPaths(config.out).model, network.decoupled(), scored)
    return score


def origins(config: TrainConfig, manifest: Manifest) -> list[str]:
    """The origins of all data that the model has learned from, directly or through another model."""
    found = set(manifest.origins)
    for uri in (config.init, config.teacher, config.csr.initial_run):
        if uri is not None:
            found.update(model_directory.origins(parsers.read_card(uri)) or ())
    return sorted(found)


def best_ensemble(ledger: Ledger, trial: str) -> Ensemble | None:
    """The trial's ensemble with the best validation score, or None."""
    return max(ledger.of(Ensemble, trial), key=lambda ensemble: ensemble.val_mean_f1, default=None)
