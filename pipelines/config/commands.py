"""The typed configuration of every command. Flags, YAML keys and these fields have the same dotted names.

Values are resolved as: defaults here, then `--preset`, then `--config FILE`, then flags. `train` and `tune` have theirs
in `training`.
"""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from pipelines.config.base import Config, Fraction, Metavar, Seed, Split, TaxonomyName, Uri


def _shares(value: Any) -> Any:
    """`train=.8,val=.1,test=.1` as a mapping; a mapping stays one."""
    if not isinstance(value, str):
        return value
    return dict(part.strip().partition("=")[::2] for part in value.split(","))


def _positive_sum(shares: dict[Split, float]) -> dict[Split, float]:
    if not sum(shares.values()):
        raise ValueError("at least one share must be above zero")
    return shares


SplitShares = Annotated[
    dict[Split, NonNegativeFloat],
    BeforeValidator(_shares),
    AfterValidator(_positive_sum),
    Metavar("SPLIT=SHARE,..."),
]


class SynthConfig(Config):
    """Make a data set of procedural faces with exact labels (19 classes of CelebAMask-HQ)."""

    out: Uri
    """Where the data set is written."""
    num_images: PositiveInt = 600
    """Number of faces; of every ten, eight are for training, one for validation, one for testing."""
    image_size: Annotated[int, Field(ge=32, le=4096)] = 256
    """Side of the square images in pixels."""
    seed: Seed = 0
    """Same seed, same ids and images, whatever the label noise."""
    label_noise: Fraction = 0.0
    """Probability that a training label is corrupted the way real annotations fail."""
    layout: Literal["packed", "pairs"] = "packed"
    """`packed`: a data set ready to train on; `pairs`: a raw folder of images and labels to ingest."""


RawFormatName = Literal["lapa", "celebamask_hq", "helen", "face_synthetics", "pairs"]
"""The keys of the table in `pipelines/ingest/formats.py`, which this module may not import; it compares them."""


class IngestConfig(Config):
    """Pack raw faces into a data set; bad samples go to a quarantine table with a reason."""

    format: RawFormatName
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
    splits: SplitShares = Field(default={"train": 0.8, "val": 0.1, "test": 0.1})
    """Shares of the splits for `face_synthetics`, which has none of its own, as `train=.8,val=.1,test=.1`."""
    split_file: Uri | None = None
    """Text file with lines `<id> <train|val|test>`, instead of the published split or shares."""
    seed: Seed = 0
    """Decides the split by shares and the order of rows."""


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


def _names(value: Any) -> Any:
    """`train,val` as a tuple; a tuple stays one."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


class RelabelConfig(Config):
    """Write new labels, and how good the old ones are, for a whole data set as a new version of it."""

    model: Uri
    """Model directory, or a run directory that has one; with `folds` a run directory, whose recipe is taken."""
    data: Uri
    """The data set, labelled or not."""
    out: Uri
    """Where the new version goes; the same command on it continues."""
    policy: Literal["replace", "blend", "confident"] = "replace"
    """`replace`: every pixel takes the model's class. `blend`: argmax of (1 - a) model + a label, a = `label_weight`.
    `confident`: only pixels change whose label the model contradicts as surely as it confirms that class elsewhere.
    Unlabelled rows take the model's label."""
    label_weight: Annotated[float, Field(ge=0, lt=0.5)] = 0.4
    """The weight a of the old label in `blend`: the model's class wins where it is a / (1 - a) more probable. From 0.5
    on no label could change."""
    splits: Annotated[tuple[Split, ...], BeforeValidator(_names), Field(min_length=1), Metavar("SPLIT,...")] = (
        "train",
    )
    """Splits that get new labels, as `train,val`; the others are copied byte for byte, so that scores compare."""
    folds: Annotated[int, Field(ge=2, le=100)] | None = None
    """Train this many models by the recipe of the run `model`, each without its fold of the training rows, which it
    then relabels: no model labels what it was trained on."""
    tta: bool = False
    """Average over the mirrored image and the scales 0.75, 1, 1.25."""
    suspects: Annotated[int, Field(ge=0, le=1000)] = 0
    """Write this many rows with the worst labels for people: a gallery, and files for CVAT, FiftyOne, Label Studio."""
    max_bad_fraction: Fraction = 0.05
    """Share of bad rows above which the command stops; they are listed in `quarantine/`."""
    actors: ActorsConfig = ActorsConfig()


class PredictConfig(Config):
    """Write label maps and overlays for loose images (JPEG, PNG, WebP, BMP, TIFF)."""

    model: Uri
    """Model directory, or a run directory that has one."""
    images: Uri
    """One image, or a folder that is searched for images."""
    out: Uri
    """Where `labels/` and `overlays/` go."""
    cutouts: bool = False
    """Also write each part of each image as a picture with a transparent background, to `cutouts/`."""
    tta: bool = False
    """Average over the mirrored image and the scales 0.75, 1, 1.25."""
    actors: ActorsConfig = ActorsConfig()


class ReportConfig(Config):
    """Write one self-contained HTML page about a training run, a sweep or a relabelled data set."""

    run: Uri
    """The run's directory, or the data set."""
    out: Uri
    """The file that is written."""


class ExportConfig(Config):
    """Write one deployable file of a model, checked against it."""

    model: Uri
    """Model directory, or a run directory that has one."""
    format: Literal["onnx", "safetensors"]
    """`onnx` (extra `onnx`): any batch and image size; `safetensors`: weights and model card in one file."""
    out: Uri
    """The file that is written."""


Benchmark = Literal["stream", "loss", "step", "relabel", "cycle", "start"]


class BenchConfig(Config):
    """Measure speed on this machine, each number as a ratio within one run; about twelve minutes on 2 cores."""

    out: Uri
    """The JSON file that is written."""
    measurements: Annotated[
        tuple[Benchmark, ...], BeforeValidator(_names), Field(min_length=1), Metavar("NAME,...")
    ] = get_args(Benchmark)
    """What is measured, as `stream,loss`."""


class StatusConfig(Config):
    """Tell where a run stands: epochs, cycles, scores, lineage. Reads storage only; needs no cluster."""

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
