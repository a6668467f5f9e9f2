"""The typed configuration of every command. Flags, YAML keys and these fields have the same dotted names.

Values are resolved as: defaults here, then `--preset`, then `--config FILE`, then flags. The defaults of `train`
are those of the preset `cpu-small`: they run on a laptop.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from dmlcsr.taxonomy import get_taxonomy
from pipelines.errors import UserError
from pipelines.storage import absolute


def _uri(value: str) -> str:
    try:
        return absolute(value)
    except UserError as error:
        raise ValueError(str(error)) from error


def _taxonomy(value: str) -> str:
    return get_taxonomy(value).name


Uri = Annotated[str, AfterValidator(_uri)]
Fraction = Annotated[float, Field(ge=0, le=1)]
TaxonomyName = Annotated[str, AfterValidator(_taxonomy)]
Split = Literal["train", "val", "test"]


def _shares(value: Any) -> Any:
    """`train=.8,val=.1,test=.1` as a mapping; a mapping stays one."""
    if not isinstance(value, str):
        return value
    return dict(part.strip().partition("=")[::2] for part in value.split(","))


def _positive_sum(shares: dict[Split, float]) -> dict[Split, float]:
    if not sum(shares.values()):
        raise ValueError("at least one share must be above zero")
    return shares


SplitShares = Annotated[dict[Split, NonNegativeFloat], BeforeValidator(_shares), AfterValidator(_positive_sum)]


class Config(BaseModel):
    """Base of all: unknown keys are errors, values are immutable, the text under a field is its help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class SynthConfig(Config):
    """Make a data set of procedural faces with exact labels (19 classes of CelebAMask-HQ)."""

    out: Uri
    """Where the data set is written."""
    num_images: PositiveInt = 600
    """Number of faces; of every ten, eight are for training, one for validation, one for testing."""
    image_size: Annotated[int, Field(ge=32, le=4096)] = 256
    """Side of the square images in pixels."""
    seed: NonNegativeInt = 0
    """Same seed, same ids and images, whatever the label noise."""
    label_noise: Fraction = 0.0
    """Probability that a training label is corrupted the way real annotations fail."""
    layout: Literal["packed", "pairs"] = "packed"
    """`packed`: a data set ready to train on; `pairs`: a raw folder of images and labels to ingest."""


class IngestConfig(Config):
    """Pack raw faces into a data set; bad samples go to a quarantine table with a reason."""

    format: Literal["lapa", "celebamask_hq", "helen", "face_synthetics", "pairs"]
    """How the source is laid out: as published, or as paired folders of images and labels."""
    source: Uri
    """Folder with the raw faces."""
    out: Uri
    """Where the data set is written."""
    taxonomy: TaxonomyName | None = None
    """Classes of the labels, for `pairs` (required there): celebamask_hq, face_synthetics, helen or lapa."""
    remap_to: TaxonomyName | None = None
    """Rewrite the labels from their own taxonomy to this one by the explicit table of the project."""
    paint_order: Literal["ids", "accessories_last"] = "ids"
    """For `celebamask_hq`: the order in which part masks are painted over each other, by id, or cloth and neck first
    and glasses, hat, earring and necklace last. It decides the truth where parts overlap."""
    splits: SplitShares = {"train": 0.8, "val": 0.1, "test": 0.1}
    """Shares of the splits for `face_synthetics`, which has none of its own, as `train=.8,val=.1,test=.1`."""
    split_file: Uri | None = None
    """Text file with lines `<id> <train|val|test>`, instead of the published split or shares."""
    seed: NonNegativeInt = 0
    """Decides the split by shares and the order of rows."""


class ModelConfig(Config):
    """The network."""

    depth: Literal[18, 34, 50, 101] = 18
    """Layers of the ResNet encoder."""
    width: Annotated[float, Field(gt=0, le=4)] = 0.25
    """Multiplier of all channel counts; 1 is the published network."""
    ddgcn: bool = True
    """The dual graph head between encoder and parsing; without it one convolution, for comparison."""


class InputConfig(Config):
    """What the network sees."""

    size: Annotated[int, Field(ge=32, le=2048)] = 128
    """Side of the square input in pixels."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Augmentation: scale factor clip(N(1, s), 1 - s, 1 + s)."""
    rotation: NonNegativeFloat = 30.0
    """Augmentation: rotation clip(N(0, r), -2r, 2r) in degrees."""
    rotation_probability: Fraction = 0.6
    """Share of the images that are rotated."""
    flip_probability: Fraction = 0.5
    """Share of the images that are mirrored; left/right ids are swapped with them."""


class LossConfig(Config):
    """Weights of the five loss parts (section 4 of the method); `tune` searches them."""

    parsing: NonNegativeFloat = 1.0
    """Lovasz-softmax and cross-entropy of the parsing logits, half each."""
    binary: NonNegativeFloat = 1.0
    """Weighted cross-entropy of the binary edge."""
    category: NonNegativeFloat = 0.1
    """Weighted cross-entropy of the category edge."""
    binary_attention: NonNegativeFloat = 1.0
    """Parsing cross-entropy on binary edge pixels."""
    category_attention: NonNegativeFloat = 0.0
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
    accumulate: PositiveInt = 1
    """Micro-batches whose gradients make one optimiser step."""
    clip_norm: PositiveFloat | None = 10.0
    """Largest norm of the gradient; null: no clipping."""


class ScheduleConfig(Config):
    """Length of the training and shape of the learning rate (section 5)."""

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
    """Cyclical self-regulation after the warm phase (section 6); 0 cycles: none."""

    num_cycles: NonNegativeInt = 0
    """Cycles; each ends with an average of all students so far, which teaches the next."""
    cycle_epochs: PositiveInt = 10
    """Epochs of a cycle, with a cosine from lr/2 to lr/100 of their own."""
    method: Literal["full", "averages", "restarts"] = "full"
    """`averages`: students are averaged, but the averages do not teach; `restarts`: they are not averaged either. Both
    are for comparison with the `full` method."""
    share: Literal["none", "soup"] = "none"
    """Across the trials of a sweep. `none`: each learns from its own students. `soup`: all branch from one warm phase
    with the configured weights; once per cycle a greedy average over their ensembles is tried, and teaches the weaker.
    """
    warm: Uri | None = None
    """A finished run whose last epoch takes the place of the warm phase; it has the same network and `schedule`."""


class DistillConfig(Config):
    """Learning from `teacher`."""

    hard_weight: Fraction = 0.5
    """The weight a of the hard label in (1 - a) softmax(teacher) + a onehot(label)."""


class WorkersConfig(Config):
    """Where the work runs. None of this changes what one worker computes."""

    num_workers: PositiveInt = 1
    """Training workers: one process each, one GPU each with `use_gpu`."""
    use_gpu: bool = False
    """Train on CUDA devices, with bf16 autocast and, over several workers, SyncBatchNorm."""
    cpus_per_worker: PositiveInt = 1
    """CPUs and torch threads of each training worker."""
    data_tasks: PositiveInt = 1
    """Decoding tasks that may run at once for each training worker, one CPU each."""
    max_failures: NonNegativeInt = 3
    """How many times lost workers are replaced before the run fails."""


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
    seed: NonNegativeInt = 0
    """Decides initial weights, order of rows and augmentation."""
    model: ModelConfig = ModelConfig()
    input: InputConfig = InputConfig()
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
        if self.csr.share == "soup" and not self.is_regulated:
            raise ValueError("csr.share = soup needs csr.num_cycles, and a csr.method with averages")
        if self.csr.warm is not None and not self.csr.num_cycles:
            raise ValueError("csr.warm needs csr.num_cycles: without cycles nothing follows the warm phase")
        return self

    @property
    def is_regulated(self) -> bool:
        """Whether an orchestrator averages students."""
        return self.csr.num_cycles > 0 and self.csr.method != "restarts"

    @property
    def num_epochs(self) -> int:
        """Of the warm phase and all cycles."""
        return self.schedule.epochs + self.csr.num_cycles * self.csr.cycle_epochs


def _range(value: Any) -> Any:
    """`0.3,3` as a pair; a pair stays one."""
    return [float(part) for part in value.split(",")] if isinstance(value, str) else value


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 < bounds[0] < bounds[1]:
        raise ValueError(f"needs two rising bounds above zero, got {bounds[0]:g},{bounds[1]:g}")
    return bounds


Range = Annotated[tuple[float, float], AfterValidator(_rising)]


class SearchConfig(Config):
    """What a sweep varies: each value log-uniform between two bounds, as `0.3,3`; null: as configured."""

    parsing: Annotated[Range | None, BeforeValidator(_range)] = (0.3, 3.0)
    """Weight of the parsing loss."""
    binary: Annotated[Range | None, BeforeValidator(_range)] = (0.3, 3.0)
    """Weight of the binary edge."""
    category: Annotated[Range | None, BeforeValidator(_range)] = (0.03, 0.3)
    """Weight of the category edge."""
    binary_attention: Annotated[Range | None, BeforeValidator(_range)] = (0.5, 8.0)
    """Weight of the parsing loss on binary edges."""
    category_attention: Annotated[Range | None, BeforeValidator(_range)] = (0.1, 2.0)
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
    search: SearchConfig = SearchConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _searches_something(self) -> Self:
        searched = {name for name, bounds in self.search if bounds is not None}
        if not searched - (set() if self.csr.num_cycles else {"cycle_epochs"}):
            raise ValueError("search: there is nothing to vary; give at least one value bounds")
        return self

    @property
    def max_epochs(self) -> int:
        """Of the longest trial that may be sampled."""
        longest = self.csr.cycle_epochs if self.search.cycle_epochs is None else round(self.search.cycle_epochs[1])
        return self.schedule.epochs + self.csr.num_cycles * longest


class ActorsConfig(Config):
    """The actor pool that runs the model."""

    min_actors: PositiveInt = 1
    """Actors that are always there."""
    max_actors: PositiveInt = 2
    """Actors that the pool may grow to."""
    use_gpu: bool = False
    """One CUDA device for each actor."""
    batch_size: PositiveInt = 8
    """Images of one forward pass."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.min_actors > self.max_actors:
            raise ValueError(f"min_actors ({self.min_actors}) must not exceed max_actors ({self.max_actors})")
        return self


class EvaluateConfig(Config):
    """Score a model on a split at the labels' own resolution."""

    model: Uri
    """Model directory, or a run directory that has one."""
    data: Uri
    """The data set."""
    split: Split = "test"
    """The split to score."""
    out: Uri | None = None
    """Where scores and overlays go; default: `evaluation/<data>-<split>` beside the model."""
    tta: bool = False
    """Average over the mirrored image and the scales 0.75, 1, 1.25."""
    num_overlays: NonNegativeInt = 8
    """Overlays of this many best and this many worst images."""
    actors: ActorsConfig = ActorsConfig()


class PredictConfig(Config):
    """Label maps and overlays for loose images (JPEG, PNG, WebP, BMP, TIFF)."""

    model: Uri
    """Model directory, or a run directory that has one."""
    images: Uri
    """One image, or a folder that is searched for images."""
    out: Uri
    """Where `labels/` and `overlays/` go."""
    tta: bool = False
    """Average over the mirrored image and the scales 0.75, 1, 1.25."""
    actors: ActorsConfig = ActorsConfig()


class StatusConfig(Config):
    """Where a run stands: epochs, cycles, scores, lineage. Reads storage only; needs no cluster."""

    run: Uri
    """The run's directory."""


class ImportWeightsConfig(Config):
    """Make a model directory from the authors' checkpoint or from an ImageNet ResNet with the same stem."""

    checkpoint: Uri
    """The .pth or .safetensors file."""
    taxonomy: TaxonomyName
    """Classes of the model."""
    out: Uri
    """Where the model directory goes."""
