"""The configuration of `train` and `tune`; as in `config`, flags, YAML keys and these fields have the same names.

The defaults are those of the preset `cpu-small`: they run on a laptop.
"""

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

from pipelines.config.base import Config, Fraction, Metavar, Seed, Uri


class ModelConfig(Config):
    """The network."""

    depth: Literal[18, 34, 50, 101] = 18
    """Layers of the ResNet encoder."""
    width: Annotated[float, Field(gt=0, le=4)] = 0.25
    """Multiplier of all channel counts; 1 is the published network."""
    ddgcn: bool = True
    """The dual graph head between encoder and parsing; without it one convolution, for comparison."""


class InputConfig(Config):
    """The input of the network."""

    size: Annotated[int, Field(ge=32, le=2048)] = 128
    """Side of the square input in pixels."""


class AugmentationConfig(Config):
    """Random changes of each training image and its label (docs/method.md, section 5)."""

    scale: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Spread s of the scale factor, clip(N(1, s), 1 - s, 1 + s)."""
    rotation: NonNegativeFloat = 30.0
    """Spread r of the rotation in degrees, clip(N(0, r), -2r, 2r)."""
    rotation_probability: Fraction = 0.6
    """Fraction of the images that are rotated."""
    flip_probability: Fraction = 0.5
    """Fraction of the images that are mirrored; left and right ids are swapped with them."""


class LossConfig(Config):
    """Weights of the loss terms (docs/method.md, section 4); `tune` searches them."""

    parsing: NonNegativeFloat = 1.0
    """Lovasz-softmax and cross-entropy of the parsing logits, half each."""
    binary_edge: NonNegativeFloat = 1.0
    """Weighted cross-entropy of the binary edge."""
    category_edge: NonNegativeFloat = 0.1
    """Weighted cross-entropy of the category edge."""
    binary_edge_attention: NonNegativeFloat = 1.0
    """Parsing cross-entropy on binary edge pixels."""
    category_edge_attention: NonNegativeFloat = 0.0
    """Parsing cross-entropy on category edge pixels."""
    edge_radius: PositiveInt = 1
    """Half width of the edges in pixels."""


class OptimizerConfig(Config):
    """The optimiser and its batches."""

    name: Literal["adamw", "sgd"] = "adamw"
    """`sgd` (with momentum) presumes ImageNet weights in the encoder; `adamw` trains from random ones."""
    lr: PositiveFloat = 2e-3
    """Peak learning rate."""
    momentum: Fraction = 0.9
    """Momentum of `sgd`."""
    weight_decay: NonNegativeFloat = 1e-4
    """Decoupled for `adamw`, L2 for `sgd`."""
    batch_size: PositiveInt = 8
    """Rows of one worker's micro-batch."""
    accumulation_steps: PositiveInt = 1
    """Micro-batches whose gradients make one optimiser step."""
    clip_norm: PositiveFloat | None = 10.0
    """Largest norm of the gradient; null: no clipping."""


class ScheduleConfig(Config):
    """Length of the training and shape of the learning rate (docs/method.md, section 5)."""

    epochs: PositiveInt = 12
    """Passes over the training split, before self-regulation where there is any."""
    warmup_epochs: NonNegativeFloat = 2.0
    """Linear rise from lr/100 to lr; then a cosine falls to lr/100."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) must be smaller than epochs ({self.epochs})")
        return self


class CsrConfig(Config):
    """Cyclical self-regulation after the initial phase (docs/method.md, section 6); 0 cycles: none."""

    num_cycles: NonNegativeInt = 0
    """Cycles; each ends with an average of all students so far, which teaches the next."""
    cycle_epochs: PositiveInt = 10
    """Epochs of a cycle, with a cosine from lr/2 to lr/100 of their own."""
    method: Literal["full", "averages", "restarts"] = "full"
    """`averages`: students are averaged, but the averages do not teach; `restarts`: they are not averaged either. Both
    are for comparison with the `full` method."""
    initial_run: Uri | None = None
    """A finished run whose last epoch takes the place of the initial phase; it has the same network and `schedule`."""


class DistillConfig(Config):
    """Learning from `teacher`."""

    label_weight: Fraction = 0.5
    """The weight a of the hard label in (1 - a) softmax(teacher) + a onehot(label)."""


class WorkersConfig(Config):
    """Where the work runs. None of this changes what one worker computes."""

    num_workers: PositiveInt = 1
    """Training workers: one process each, one GPU each with `use_gpu`."""
    use_gpu: bool = False
    """Train on CUDA devices, with bf16 autocast and, over several workers, SyncBatchNorm."""
    cpus_per_worker: PositiveInt = 1
    """CPUs and torch threads of each training worker."""
    decode_tasks: PositiveInt = 1
    """Decoding tasks that may run at once for each training worker, one CPU each."""
    max_failures: NonNegativeInt = 3
    """How many times lost workers are replaced before the run fails."""


def _fold(value: str) -> str:
    number, _, total = value.partition("/")
    if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total) and int(total) > 1):
        raise ValueError("expected K/N with K from 1 to N, as 2/5")
    return value


Fold = Annotated[str, AfterValidator(_fold), Metavar("K/N")]


class TrainConfig(Config):
    """Train on the packed data set; export the best model of all epochs, without its edge heads."""

    data: Uri
    """The data set."""
    out: Uri
    """The run's directory; the same command on it continues."""
    init: Uri | None = None
    """Model directory whose weights the training starts from, as far as names and shapes agree."""
    teacher: Uri | None = None
    """Model directory of a frozen teacher with the same classes, of any size; it teaches the parsing."""
    held_out_fold: Fold | None = None
    """Fold of the training data that is not trained on, as `2/5`: every fifth row group from the second."""
    seed: Seed = 0
    """Decides initial weights, order of rows and augmentation."""
    model: ModelConfig = ModelConfig()
    input: InputConfig = InputConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    csr: CsrConfig = CsrConfig()
    distill: DistillConfig = DistillConfig()
    workers: WorkersConfig = WorkersConfig()

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.teacher is not None and self.csr.num_cycles:
            raise ValueError("teacher and csr.num_cycles exclude each other: a run has one kind of teacher")
        if self.csr.initial_run is not None and not self.csr.num_cycles:
            raise ValueError("csr.initial_run needs csr.num_cycles: without cycles nothing follows the initial phase")
        return self

    @property
    def averages_students(self) -> bool:
        """Whether an orchestrator averages students."""
        return self.csr.num_cycles > 0 and self.csr.method != "restarts"

    @property
    def fold_numbers(self) -> tuple[int, int] | None:
        """`held_out_fold` as (k, K), None if every row is trained on."""
        if self.held_out_fold is None:
            return None
        number, total = self.held_out_fold.split("/")
        return int(number), int(total)

    @property
    def num_epochs(self) -> int:
        """Of the initial phase and all cycles."""
        return self.schedule.epochs + self.csr.num_cycles * self.csr.cycle_epochs


def _range(value: Any) -> Any:
    """`0.3,3` as a pair; a pair stays one."""
    return [float(part) for part in value.split(",")] if isinstance(value, str) else value


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 < bounds[0] < bounds[1]:
        raise ValueError(f"needs two rising bounds above zero, got {bounds[0]:g},{bounds[1]:g}")
    return bounds


Range = Annotated[tuple[float, float], AfterValidator(_rising), Metavar("LOW,HIGH")]


class SearchConfig(Config):
    """What a sweep varies: each value log-uniform between two bounds, as `0.3,3`; null: as configured."""

    parsing: Annotated[Range | None, BeforeValidator(_range)] = (0.3, 3.0)
    """Weight of the parsing loss."""
    binary_edge: Annotated[Range | None, BeforeValidator(_range)] = (0.3, 3.0)
    """Weight of the binary edge."""
    category_edge: Annotated[Range | None, BeforeValidator(_range)] = (0.03, 0.3)
    """Weight of the category edge."""
    binary_edge_attention: Annotated[Range | None, BeforeValidator(_range)] = (0.5, 8.0)
    """Weight of the parsing loss on binary edges."""
    category_edge_attention: Annotated[Range | None, BeforeValidator(_range)] = (0.1, 2.0)
    """Weight of the parsing loss on category edges."""
    lr: Annotated[Range | None, BeforeValidator(_range)] = None
    """Peak learning rate."""
    cycle_epochs: Annotated[Range | None, BeforeValidator(_range)] = None
    """Epochs of a cycle, rounded."""


class ClusterConfig(Config):
    """What the cluster may grow to; what is there now counts where this is not given."""

    max_cpus: PositiveFloat | None = None
    """CPUs that the autoscaler may add up to."""
    max_gpus: NonNegativeFloat | None = None
    """GPUs that the autoscaler may add up to."""


class TuneConfig(TrainConfig):
    """Search the loss weights: trials are trainings, with their cycles inside; export the best model."""

    num_trials: PositiveInt = 8
    """Trials of the sweep."""
    algorithm: Literal["random", "tpe"] = "random"
    """`tpe` is Optuna's (extra `optuna`)."""
    early_stopping: bool = True
    """Stop weak trials early: ASHA on the validation mean F1 over epochs."""
    grace_epochs: PositiveInt = 5
    """With early stopping: epochs that every trial gets."""
    soup: bool = False
    """Let the trials share: all start from one initial phase, trained with the configured loss weights. Once per cycle
    their ensembles are averaged greedily (a model soup); trials that score below the soup learn from it."""
    search: SearchConfig = SearchConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _searches_something(self) -> Self:
        if self.soup and not self.averages_students:
            raise ValueError("soup needs csr.num_cycles, and a csr.method with averages")
        searched = {name for name, bounds in self.search if bounds is not None}
        if not searched - (set() if self.csr.num_cycles else {"cycle_epochs"}):
            raise ValueError("search: there is nothing to vary; give at least one value bounds")
        return self

    @property
    def max_epochs(self) -> int:
        """Of the longest trial that may be sampled."""
        longest = self.csr.cycle_epochs if self.search.cycle_epochs is None else round(self.search.cycle_epochs[1])
        return self.schedule.epochs + self.csr.num_cycles * longest
