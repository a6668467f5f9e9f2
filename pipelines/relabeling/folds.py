"""`relabel --folds K`: models that have not seen the rows which they label."""

import hashlib
import json
import logging

from pipelines import storage
from pipelines.config.commands import RelabelConfig
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.data import row_groups
from pipelines.data.dataset import Manifest
from pipelines.errors import UserError
from pipelines.models import model_directory
from pipelines.run import result_file, run_directory
from pipelines.training import train

logger = logging.getLogger(__name__)


def training_config_of(config: RelabelConfig) -> TrainConfig:
    """How the run `config.model` was trained. Raises UserError where it is no run of `train`."""
    found = run_directory.read_config(config.model)
    if found is None or isinstance(found, TuneConfig):
        raise UserError(
            f"--folds trains by the recipe of a run of `train`, and {config.model} is none; "
            "give --model RUN, of a sweep its best trial"
        )
    if found.csr.initial_run is not None:
        raise UserError(
            f"{config.model} branched from a initial phase that saw all rows (csr.initial_run); train one without"
        )
    return found.model_copy(update={"data": config.data})


def check(config: RelabelConfig, manifest: Manifest) -> None:
    """Raises UserError where the folds cannot be trained."""
    assert config.folds is not None
    if config.splits != ("train",):
        raise UserError("--folds is for the training split: leave --splits at train")
    groups = len(row_groups.list_groups(row_groups.open_split(config.data, manifest, "train")).num_rows)
    if groups < config.folds:
        raise UserError(f"--folds {config.folds}: the training split of {config.data} has only {groups} row groups")
    for name, uri in (("init", training_config_of(config).init), ("teacher", training_config_of(config).teacher)):
        if uri is not None and model_directory.has_seen(model_directory.read_card(uri), manifest.origin):
            raise UserError(
                f"{config.model} began with a model that has seen all rows ({name} = {uri}); train one without"
            )
    for fold in fold_configs(config):
        train.check_inputs(fold, manifest)


def digest(config: RelabelConfig) -> str:
    """Of the recipe: what decides the models of the folds."""
    values = training_config_of(config).model_dump(mode="json", exclude={"data", "out", "workers"})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def fold_configs(config: RelabelConfig) -> list[TrainConfig]:
    """The recipe for each fold that is left out, with a run directory inside the new version."""
    assert config.folds is not None
    numbers = range(1, config.folds + 1)
    places = [storage.join(config.out, "folds", f"{number}-of-{config.folds}") for number in numbers]
    return [
        training_config_of(config).model_copy(update={"out": place, "held_out_fold": f"{number}/{config.folds}"})
        for number, place in zip(numbers, places, strict=True)
    ]


def train_models(config: RelabelConfig) -> list[str]:
    """Trains the model of each fold, or finds it trained; their run directories in order."""
    runs = fold_configs(config)
    for fold in runs:
        logger.info("training the model for fold %s (on the other folds)", fold.held_out_fold)
        result_file.run_and_record("train", fold, train.run)
    return [model_directory.locate(fold.out) for fold in runs]
