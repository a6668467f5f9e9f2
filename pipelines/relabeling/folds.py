"""`relabel --folds K`: K models, each of which labels rows that were not in its training data."""

import hashlib
import json
import logging

from pipelines import storage
from pipelines.config.commands import RelabelConfig
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.data import row_groups
from pipelines.data.dataset import Manifest
from pipelines.errors import UserError
from pipelines.models import model_directory, parsers
from pipelines.run import result_file, run_directory
from pipelines.training import train

logger = logging.getLogger(__name__)


def training_config_of(config: RelabelConfig) -> TrainConfig:
    """The configuration of the run `config.model`, with the data of `config`.

    Raises UserError if `config.model` is not a run of `train`, or if it branched from an initial run.
    """
    found = run_directory.read_config(config.model)
    if found is None or isinstance(found, TuneConfig):
        raise UserError(
            f"--folds trains with the configuration of a run of `train`, and {config.model} is not such a run; "
            "set --model to a run, for a sweep to the run of its best trial"
        )
    if found.csr.initial_run is not None:
        raise UserError(
            f"{config.model} branched from an initial run that saw all rows (csr.initial_run); train one without it"
        )
    return found.model_copy(update={"data": config.data, "base": config.base})


def check(config: RelabelConfig, manifest: Manifest) -> None:
    """Raises UserError if the folds cannot be trained, or if a model that they start from has seen all rows."""
    assert config.folds is not None
    if manifest.label_taxonomy is None:
        raise UserError(f"--folds trains models on {config.data}, whose faces have no labels; omit it")
    if config.splits != ("train",):
        raise UserError("--folds is for the training split: leave --splits at train")
    groups = row_groups.open_split(config.data, manifest, "train").groups.num_groups
    if groups < config.folds:
        raise UserError(f"--folds {config.folds}: the training split of {config.data} has only {groups} row groups")
    for name, uri in (("init", training_config_of(config).init), ("teacher", training_config_of(config).teacher)):
        if uri is not None and model_directory.has_seen(parsers.read_card(uri), manifest.origins):
            raise UserError(
                f"{config.model} began with a model that has seen all rows ({name} = {uri}); train one without it"
            )
    for fold in fold_configs(config):
        train.check_inputs(fold, manifest)


def digest(config: RelabelConfig) -> str:
    """A sha256 of the training configuration that decides the models of the folds."""
    values = training_config_of(config).model_dump(mode="json", exclude={"data", "out", *train.MAY_DIFFER})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def fold_configs(config: RelabelConfig) -> list[TrainConfig]:
    """The training configuration of each fold, which leaves that fold out; its run is inside the new version."""
    assert config.folds is not None
    numbers = range(1, config.folds + 1)
    outs = [storage.join(config.out, "folds", f"{number}-of-{config.folds}") for number in numbers]
    return [
        training_config_of(config).model_copy(update={"out": out, "held_out_fold": f"{number}/{config.folds}"})
        for number, out in zip(numbers, outs, strict=True)
    ]


def train_models(config: RelabelConfig) -> list[str]:
    """Trains the models of the folds that are not trained yet. Returns all model directories by fold."""
    runs = fold_configs(config)
    for fold in runs:
        logger.info("training the model for fold %s (on the other folds)", fold.held_out_fold)
        result_file.run_and_record("train", fold, train.run)
    return [model_directory.locate(fold.out) for fold in runs]
