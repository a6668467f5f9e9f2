"""Builds the parts of a training: the network with its first weights, its card, the optimizer, and the batches."""

from dataclasses import replace

import torch
from ray.train import Checkpoint
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from dmlcsr.augment import Augmentation
from dmlcsr.losses import LossWeights
from dmlcsr.model import DMLCSR, Architecture
from dmlcsr.taxonomy import Taxonomy, match
from dmlcsr.weights import ModelCard, Preprocessing, load_matching
from pipelines import storage
from pipelines.config.training import LossConfig, OptimizerConfig, TrainConfig
from pipelines.data import row_groups, stream
from pipelines.data.dataset import Manifest
from pipelines.errors import UserError
from pipelines.models import model_directory
from pipelines.run import run_directory
from pipelines.run.paths import RunPaths
from pipelines.run.ray_train import Result

_OF_CLASSES = ("parsing_head.classifier.", "edge_head.shared.", "edge_head.binary.", "edge_head.category.")
"""Prefixes of the weights whose channels are classes."""


def build_network(config: TrainConfig, taxonomy: Taxonomy) -> DMLCSR:
    """The training network with its first weights, which are equal on all workers."""
    torch.manual_seed(config.seed)
    network = DMLCSR(model_card(config, taxonomy).architecture)
    if config.init is not None:
        load_matching(network, starting_weights(config.init, taxonomy))
    return network


def starting_weights(uri: str, taxonomy: Taxonomy) -> dict[str, Tensor]:
    """Weights of a model directory, with its edge heads if it has them.

    If it was trained on another taxonomy, the layers whose channels are classes are left out.
    """
    parser, card = model_directory.read_model(uri)
    state = parser.state_dict() | model_directory.read_edge_head(uri)
    if match(card.taxonomy, taxonomy) in ("same", "sides unknown"):
        return state
    return {name: value for name, value in state.items() if not name.startswith(_OF_CLASSES)}


def model_card(config: TrainConfig, taxonomy: Taxonomy) -> ModelCard:
    """The card of the exported model, without metrics and lineage.

    With `--init`, stem, residual activation and preprocessing, except the size, are taken from that model.
    """
    architecture = Architecture(num_classes=taxonomy.num_classes, **config.model.model_dump())
    if config.init is not None:
        given = model_directory.read_card(config.init)
        stem, activation = given.architecture.stem, given.architecture.residual_activation
        architecture = replace(architecture, stem=stem, residual_activation=activation)
    return ModelCard(architecture=architecture, taxonomy=taxonomy, preprocessing=preprocessing(config))


def preprocessing(config: TrainConfig) -> Preprocessing:
    """The preprocessing of the network that is trained: that of `--init`, except its size, or the default."""
    given = None if config.init is None else model_directory.read_card(config.init).preprocessing
    return replace(given or Preprocessing(size=config.input.size), size=config.input.size, fit="letterbox")


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> Optimizer:
    if config.name == "sgd":
        decay = config.weight_decay
        return SGD(network.parameters(), config.lr, momentum=config.momentum, weight_decay=decay, fused=True)
    return AdamW(network.parameters(), config.lr, weight_decay=config.weight_decay, fused=True)


def loss_weights(config: LossConfig) -> LossWeights:
    """The weights of the loss terms: the configuration of the loss without the edge radius."""
    return LossWeights(**config.model_dump(exclude={"edge_radius"}))


def train_stream(config: TrainConfig, manifest: Manifest, rank: int, world_size: int) -> stream.TrainStream:
    """The training batches of one worker."""
    return stream.TrainStream(
        source=row_groups.open_split(config.data, manifest, "train", config.fold_numbers),
        augmentation=Augmentation(**config.augmentation.model_dump()),
        size=config.input.size,
        border_color=preprocessing(config).border_color,
        batch_size=config.optimizer.batch_size,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
        batches_per_step=config.optimizer.accumulation_steps,
    )


def check_initial_run(config: TrainConfig, taxonomy: Taxonomy) -> None:
    """Raises UserError if `csr.initial_run` is not a finished run of the same network, classes and initial phase."""
    uri = config.csr.initial_run
    assert uri is not None
    initial = run_directory.read_config(uri)
    if initial is None:
        raise UserError(f"--csr.initial-run {uri} holds no run")
    done, wanted = len(run_directory.read_metrics(uri)), config.schedule.epochs
    if (initial.num_epochs, done) != (wanted, wanted):
        raise UserError(
            f"--csr.initial-run {uri} has {done} of {initial.num_epochs} epochs; schedule.epochs is {wanted}"
        )
    card, mine = model_directory.read_card(uri), model_card(config, taxonomy)
    same = (card.architecture, card.preprocessing) == (mine.architecture, mine.preprocessing)
    if not same or match(card.taxonomy, mine.taxonomy) != "same" or initial.optimizer.name != config.optimizer.name:
        raise UserError(
            f"--csr.initial-run {uri} was trained with another `model`, `input.size`, `init`, `optimizer.name`, "
            "or on other classes; use the same values in both runs"
        )


def initial_run_checkpoint(config: TrainConfig) -> Checkpoint | None:
    """The last checkpoint of the run that `csr.initial_run` names; None if it names none."""
    return last_checkpoint(config.csr.initial_run) if config.csr.initial_run is not None else None


def last_checkpoint(run: str) -> Checkpoint:
    """The checkpoint of a run's last epoch. Raises UserError if the run has none."""
    fs, path = storage.arrow_filesystem(RunPaths(run).checkpoints)
    try:
        last = Result.from_path(path, fs).checkpoint
    except RuntimeError as error:
        raise UserError(f"{run} has no checkpoints: {error}") from error
    if last is None:
        raise UserError(f"{run} has no checkpoint")
    return last
