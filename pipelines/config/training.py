"""The typed configuration of `train` and `tune`. Flags, YAML keys and these fields have the same dotted names.

The defaults are those of the preset `cpu-small`, which trains on a laptop.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pipelines.config.base import Config, DataConfig, Fraction, Metavar, Seed, Uri
from pipelines.config.workers import GpuConfig, WorkersConfig


class ModelConfig(Config):
    """The network (docs/method.md, section 2)."""

    depth: Literal[18, 34, 50, 101] = 18
    """Number of layers of the ResNet encoder; the paper's has 101."""
    width: Annotated[float, Field(gt=0, le=4)] = 0.25
    """Factor on all channel counts; 1 gives the paper's network."""
    ddgcn: bool = True
    """Put the paper's dual graph head between encoder and parsing head. `false` puts one convolution there instead, to
    measure the head's effect."""


class InputConfig(Config):
    """The input of the network."""

    size: Annotated[int, Field(ge=32, le=2048)] = 128
    """Height and width of the network's input in pixels."""


class AugmentationConfig(Config):
    """Random changes of each training image and its label (docs/method.md, section 5)."""

    scale: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Standard deviation s of the scale factor, which is drawn as clip(N(1, s), 1 - s, 1 + s)."""
    rotation: NonNegativeFloat = 30.0
    """Standard deviation r of the rotation in degrees, which is drawn as clip(N(0, r), -2r, 2r)."""
    rotation_probability: Fraction = 0.6
    """Fraction of the images that are rotated."""
    flip_probability: Fraction = 0.5
    """Fraction of the images that are mirrored. The class ids of left and right parts are swapped with them."""


class LossConfig(Config):
    """Weights of the loss terms (docs/method.md, section 4). `tune` searches them."""

    parsing: NonNegativeFloat = 1.0
    """Weight of the parsing term: half Lovasz-softmax, half cross-entropy, on all labelled pixels."""
    binary_edge: NonNegativeFloat = 1.0
    """Weight of the class-weighted cross-entropy of the binary edge logits."""
    category_edge: NonNegativeFloat = 0.1
    """Weight of the class-weighted cross-entropy of the category edge logits."""
    binary_edge_attention: NonNegativeFloat = 1.0
    """Weight of the parsing cross-entropy on pixels of the binary edge."""
    category_edge_attention: NonNegativeFloat = 0.0
    """Weight of the parsing cross-entropy on edge pixels of the foreground classes."""
    edge_radius: PositiveInt = 1
    """Radius r of the edges in pixels: a pixel is an edge if its (2r + 1) x (2r + 1) window holds two labels."""


class OptimizerConfig(Config):
    """The optimizer and its batches."""

    name: Literal["adamw", "sgd"] = "adamw"
    """`adamw` also trains an encoder with random weights; `sgd`, with momentum, needs ImageNet weights in it."""
    lr: PositiveFloat = 2e-3
    """Peak learning rate, reached at the end of the warm-up."""
    momentum: Fraction = 0.9
    """Momentum of `sgd`; `adamw` does not use it."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay; it is decoupled with `adamw` and an L2 penalty with `sgd`."""
    batch_size: PositiveInt = 8
    """Number of images in one micro-batch of one worker."""
    accumulation_steps: PositiveInt = 1
    """Number of micro-batches whose gradients are averaged for one optimizer step."""
    clip_norm: PositiveFloat | None = 10.0
    """Largest norm of the gradient; larger gradients are scaled down. null: no clipping."""


class ScheduleConfig(Config):
    """Length of the training and shape of the learning rate (docs/method.md, section 5)."""

    epochs: PositiveInt = 12
    """Number of epochs of the initial phase. Cycles of self-regulation add their own epochs."""
    warmup_epochs: NonNegativeFloat = 2.0
    """Number of epochs in which the learning rate rises linearly from lr/100 to lr. Then it falls to lr/100 along a
    cosine until the end of the initial phase."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) must be smaller than epochs ({self.epochs})")
        return self


class CsrConfig(Config):
    """Cyclical self-regulation after the initial phase (docs/method.md, section 6)."""

    num_cycles: NonNegativeInt = 0
    """Number of cycles after the initial phase; 0: no self-regulation. At the end of each cycle the weights of all
    students so far are averaged, and this ensemble teaches the next cycle."""
    cycle_epochs: PositiveInt = 10
    """Number of epochs of one cycle. In each cycle the learning rate falls from lr/2 to lr/100 along a cosine."""
    method: Literal["full", "averages", "restarts"] = "full"
    """`full` is the paper's method. `averages` builds the ensembles, but does not let them teach. `restarts` only
    restarts the learning rate. The last two exist to measure the parts of the method."""
    initial_run: Uri | None = None
    """Run directory of a finished run whose last epoch replaces the initial phase. It must have the same network and
    the same `schedule`."""


class DistillConfig(Config):
    """Distillation from the model `teacher` (docs/method.md, section 6)."""

    label_weight: Fraction = 0.5
    """Weight a of the label in the target (1 - a) softmax(teacher) + a onehot(label)."""


def _fold(value: str) -> str:
    number, _, total = value.partition("/")
    if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total) and int(total) > 1):
        raise ValueError("expected K/N with K from 1 to N, as 2/5")
    return value


Fold = Annotated[str, AfterValidator(_fold), Metavar("K/N")]


class TrainConfig(DataConfig):
    """Train on a packed data set; export the best model of all epochs, without the edge heads."""

    data: Uri
    """Folder of the data set."""
    out: Uri
    """Run directory that is written. An interrupted command continues if it is repeated."""
    init: Uri | None = None
    """Model directory whose weights the training starts from. Tensors are copied if their name and shape agree; the
    others start at random. null: all start at random."""
    teacher: Uri | None = None
    """Model directory of a teacher for distillation, or an ONNX file with a card (docs/weights.md). Its classes must be
    the same, its size may differ. It stays frozen and teaches the parsing task only. null: no teacher."""
    held_out_fold: Fold | None = None
    """Fold K/N of the training rows that the training leaves out: the row groups K, K + N, K + 2N, ..., counted from 1.
    For example, `2/5` leaves out the 2nd, 7th, 12th, ... row group. null: train on all rows."""
    max_bad_fraction: Fraction = 0.05
    """Largest fraction of the training rows, and of the validation rows, that cannot be used: damaged ones, and rows
    without a label. If there are more, the training stops after the epoch; `bad_rows/` lists them."""
    seed: Seed = 0
    """Random seed of the initial weights, the order of rows and the augmentation."""
    model: ModelConfig = ModelConfig()
    input: InputConfig = InputConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    csr: CsrConfig = CsrConfig()
    distill: DistillConfig = DistillConfig()
    workers: WorkersConfig = WorkersConfig()
    gpu: GpuConfig = GpuConfig()

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.teacher is not None and self.csr.num_cycles:
            raise ValueError("teacher and csr.num_cycles exclude each other: a run has one kind of teacher")
        if self.csr.initial_run is not None and not self.csr.num_cycles:
            raise ValueError("csr.initial_run needs csr.num_cycles above 0: it replaces the phase before the cycles")
        return self

    @property
    def averages_students(self) -> bool:
        """True if an orchestrator averages the students of the cycles."""
        return self.csr.num_cycles > 0 and self.csr.method != "restarts"

    @property
    def fold_numbers(self) -> tuple[int, int] | None:
        """The held-out fold as (number, total), or None if the training uses all rows."""
        if self.held_out_fold is None:
            return None
        number, total = self.held_out_fold.split("/")
        return int(number), int(total)

    @property
    def num_epochs(self) -> int:
        """The number of epochs of the initial phase and all cycles."""
        return self.schedule.epochs + self.csr.num_cycles * self.csr.cycle_epochs


def _range(value: Any) -> Any:
    """Parses `0.3,3` into a pair of numbers; returns a pair unchanged."""
    return [float(part) for part in value.split(",")] if isinstance(value, str) else value


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 < bounds[0] < bounds[1]:
        raise ValueError(f"needs two rising bounds above zero, got {bounds[0]:g},{bounds[1]:g}")
    return bounds


Range = Annotated[tuple[float, float], AfterValidator(_rising), Metavar("LOW,HIGH")]


class SearchConfig(Config):
    """Ranges LOW,HIGH, as `0.3,3`: each trial draws a value log-uniformly from them. null: the configured value."""

    parsing: Annotated[Range | None, BeforeValidator(_range)] = (0.3, 3.0)
    """Range of `loss.parsing`."""
    binary_edge: Annotated[Range | None, BeforeValidator(_range)] = (0.3, 3.0)
    """Range of `loss.binary_edge`."""
    category_edge: Annotated[Range | None, BeforeValidator(_range)] = (0.03, 0.3)
    """Range of `loss.category_edge`."""
    binary_edge_attention: Annotated[Range | None, BeforeValidator(_range)] = (0.5, 8.0)
    """Range of `loss.binary_edge_attention`."""
    category_edge_attention: Annotated[Range | None, BeforeValidator(_range)] = (0.1, 2.0)
    """Range of `loss.category_edge_attention`."""
    lr: Annotated[Range | None, BeforeValidator(_range)] = None
    """Range of the peak learning rate `optimizer.lr`."""
    cycle_epochs: Annotated[Range | None, BeforeValidator(_range)] = None
    """Range of `csr.cycle_epochs`; the value is rounded."""


class ClusterConfig(Config):
    """Upper limits of an autoscaling cluster. They decide how many trials may run at the same time."""

    max_cpus: PositiveFloat | None = None
    """Largest number of CPUs that the autoscaler may reach; null: the CPUs that the cluster reports."""
    max_gpus: NonNegativeFloat | None = None
    """Largest number of GPUs that the autoscaler may reach; null: the GPUs that the cluster reports."""


class TuneConfig(TrainConfig):
    """Search the loss weights; each trial is a full training with its cycles. Export the best model."""

    num_trials: PositiveInt = 8
    """Number of trials of the sweep."""
    algorithm: Literal["random", "tpe"] = "random"
    """Search algorithm: `random` draws each trial independently; `tpe` is Optuna's TPE (needs the extra `optuna`)."""
    early_stopping: bool = True
    """Stop weak trials early with ASHA, which compares the validation mean F1 of trials at equal epochs."""
    grace_epochs: PositiveInt | None = None
    """Number of epochs that every trial gets before early stopping may end it; null: 5 more than
    `schedule.warmup_epochs`. It must exceed the warm-up: before the peak learning rate, scores say little."""
    soup: bool = False
    """Share weights between trials. All trials start from one initial phase, trained with the configured loss weights.
    Once per cycle their ensembles are averaged greedily (a model soup); trials that score below the soup learn from
    it."""
    search: SearchConfig = SearchConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _searches_something(self) -> Self:
        warmup = 0.0 if self.branches_trials or not self.early_stopping else self.schedule.warmup_epochs
        if self.grace_epochs is not None and self.grace_epochs <= warmup:
            raise ValueError(
                f"grace_epochs ({self.grace_epochs}) must exceed schedule.warmup_epochs "
                f"({self.schedule.warmup_epochs:g}): early stopping would compare trials during the warm-up"
            )
        if self.soup and not self.averages_students:
            raise ValueError("soup needs csr.num_cycles above 0, and csr.method full or averages")
        searched = {name for name, bounds in self.search if bounds is not None}
        if not searched - (set() if self.csr.num_cycles else {"cycle_epochs"}):
            raise ValueError("search: nothing to vary; give at least one value its bounds")
        return self

    @property
    def branches_trials(self) -> bool:
        """True if all trials begin with the weights of one initial phase."""
        return self.soup or self.csr.initial_run is not None

    @property
    def first_stop_epoch(self) -> int:
        """The number of epochs, those of a shared initial phase included, after which early stopping may end a trial.

        If the trials share the initial phase, the grace period begins after it, and there is no warm-up in it.
        """
        if self.branches_trials:
            return self.schedule.epochs + (self.grace_epochs or 5)
        return self.grace_epochs or math.ceil(self.schedule.warmup_epochs) + 5

    @property
    def max_epochs(self) -> int:
        """The number of epochs of the longest trial that the sweep may draw."""
        longest = self.csr.cycle_epochs if self.search.cycle_epochs is None else round(self.search.cycle_epochs[1])
        return self.schedule.epochs + self.csr.num_cycles * longest
