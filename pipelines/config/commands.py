"""The typed configuration of every command except `train` and `tune`, which have theirs in `training`.

Flags, YAML keys and these fields have the same dotted names. A later source overrides an earlier one: the defaults
here, `--preset`, `--config FILE`, flags.
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

from pipelines.config.base import (
    Config,
    DataConfig,
    Fraction,
    Metavar,
    Seed,
    Split,
    TaxonomyName,
    Uri,
    Uris,
    by_comma,
)


def _assignments(value: Any) -> Any:
    """Parses `train=.8,val=.1,test=.1` into a mapping; returns a mapping unchanged."""
    if not isinstance(value, str):
        return value
    return dict(part.strip().partition("=")[::2] for part in value.split(","))


def _positive_sum(shares: dict[Split, float]) -> dict[Split, float]:
    if not sum(shares.values()):
        raise ValueError("at least one fraction must be above zero")
    return shares


SplitShares = Annotated[
    dict[Split, NonNegativeFloat],
    BeforeValidator(_assignments),
    AfterValidator(_positive_sum),
    Metavar("SPLIT=SHARE,..."),
]


class SynthConfig(Config):
    """Make a data set of procedural faces with exact labels (19 classes of CelebAMask-HQ)."""

    out: Uri
    """Folder that the data set is written to."""
    num_images: PositiveInt = 600
    """Number of faces. Eight of every ten are training faces, one is for validation, one for testing."""
    image_size: Annotated[int, Field(ge=32, le=4096)] = 256
    """Height and width of the images in pixels."""
    seed: Seed = 0
    """Random seed. The same seed gives the same ids and images at any `label_noise`."""
    label_noise: Fraction = 0.0
    """Fraction of the training labels that are corrupted, in the ways in which real annotations fail."""
    layout: Literal["packed", "pairs"] = "packed"
    """`packed` writes a data set that is ready for training; `pairs` writes a raw folder of images and labels, which
    `ingest` can pack."""


def _known_order(value: Any) -> Any:
    if value == "accessories_last":
        raise ValueError("accessories_last is no published order; use farl, which paints accessories last, or bisenet")
    return value


PaintOrder = Annotated[Literal["ids", "farl", "bisenet"], BeforeValidator(_known_order)]
RawFormatName = Literal["lapa", "celebamask_hq", "helen", "face_synthetics", "pairs", "images", "parquet"]
"""The keys of the table in `pipelines/ingest/formats.py`, which this module may not import; it compares them."""


ColumnRole = Literal["image", "label", "id"]
ColumnNames = Annotated[dict[ColumnRole, str], BeforeValidator(_assignments), Metavar("ROLE=COLUMN,...")]


class IngestConfig(Config):
    """Pack raw faces into a data set; list unusable samples in a quarantine table, each with its reason."""

    format: RawFormatName
    """Layout of the source: one of four published data sets, `pairs`, folders of images and labels, `images`, faces
    without labels in any folders, or `parquet`, an existing Parquet data set."""
    source: Uris
    """Folder with the raw faces, or several of the same format: `A,B`. The ids of several begin with the base name of
    their folder."""
    out: Uri
    """Folder that the data set is written to."""
    taxonomy: TaxonomyName | None = None
    """Classes of the labels: celebamask_hq, face_synthetics, helen, lapa, or a YAML file with other classes. Required
    with `pairs`; the published data sets have their own."""
    mapping: Annotated[str, Metavar("NAME")] | None = None
    """Name of a mapping of the taxonomy, if the ids or colors of the label files are in another order than its classes.
    celebamask_hq has `bisenet` and `farl`, the orders of two families of public code."""
    colors: Uri | None = None
    """Table of the colors of RGB label files: CVAT's `labelmap.txt`, or a YAML file with a line `class: [r, g, b]` for
    each color."""
    remap_to: TaxonomyName | None = None
    """Taxonomy that the labels are translated to, or a YAML file with the keys `taxonomy` and `classes` that says which
    class becomes which. celebamask_hq and face_synthetics can become lapa without a file."""
    columns: ColumnNames | None = None
    """Columns of `parquet`, as `image=picture,label=mask,id=name`; a dotted name leads into a struct, and `label=` says
    that the rows have no labels. null: they are found by their names and types, if these leave no doubt."""
    paint_order: PaintOrder = "ids"
    """Order in which the part masks of `celebamask_hq` are painted; a later mask covers an earlier one. `ids` follows
    the class ids, `farl` is the order of FaRL, facer and SegFace, `bisenet` that of public BiSeNet repositories."""
    splits: SplitShares = Field(default={"train": 0.8, "val": 0.1, "test": 0.1})
    """Fractions of the splits if the source names none, as `train=.8,val=.1,test=.1`. `face_synthetics` names none;
    `pairs`, `images` and `parquet` may by folders or files."""
    split_file: Uri | None = None
    """Text file with lines `<id> <train|val|test>`. It replaces folders, the published split or the fractions of
    `splits`."""
    label_suffix: Annotated[str, Field(pattern=r"^[^/]+$"), Metavar("SUFFIX")] | None = None
    """End of the names of label files that the names of their images lack, as `_gt`. `_label`, `_mask` and `_seg` are
    recognized without this option."""
    seed: Seed = 0
    """Random seed of the split by fractions and of the order of rows."""


class MergeConfig(DataConfig):
    """Join data sets of one taxonomy; ids begin with the name of the data set that they come from."""

    data: Annotated[tuple[Uri, ...], BeforeValidator(by_comma), Metavar("URI,URI,...")]
    """Folders of at least two data sets, as `data/lapa,data/helen`. Each row stays in its split."""
    out: Uri
    """Folder that the new data set is written to."""


class CopyConfig(DataConfig):
    """Copy a data set, also a version that refers to images of another one, into one folder that stands alone."""

    data: Uri
    """Folder of the data set."""
    out: Uri
    """Folder that the copy is written to."""


class ActorsConfig(Config):
    """The pool of Ray actors that run the model."""

    min_actors: PositiveInt = 1
    """Number of actors that the pool starts with and keeps."""
    max_actors: PositiveInt | None = None
    """Largest number of actors that the pool may grow to; null: as many as the cluster has CPUs, or GPUs with
    `use_gpu`, including those that its autoscaler may add."""
    use_gpu: bool = False
    """Give each actor one CUDA device."""
    batch_size: PositiveInt = 8
    """Number of images in one forward pass."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.max_actors is not None and self.min_actors > self.max_actors:
            raise ValueError(f"min_actors ({self.min_actors}) must not exceed max_actors ({self.max_actors})")
        return self


class EvaluateConfig(DataConfig):
    """Score a model on a split at the labels' own resolution."""

    model: Uri
    """Model directory, a run directory that holds one, or an ONNX file with a card (docs/weights.md)."""
    data: Uri
    """Folder of the data set."""
    split: Split = "test"
    """Split that is scored."""
    out: Uri | None = None
    """Folder that scores and overlays are written to; `<digest>` is the data set's, shortened; default:
    `evaluation/<data>-<digest>-<split>` beside the model."""
    tta: bool = False
    """Average the prediction over six views: the image and its mirror image at the scales 0.75, 1 and 1.25."""
    num_overlays: NonNegativeInt = 8
    """Number of overlays: so many of the best images and so many of the worst."""
    actors: ActorsConfig = ActorsConfig()


class RelabelConfig(DataConfig):
    """Write a new version of a data set: labels from a model, and quality scores of the old labels."""

    model: Uri
    """Model directory, a run directory that holds one, or an ONNX file with a card (docs/weights.md). With `folds` it
    must be a run directory: the fold models are trained with that run's configuration."""
    data: Uri
    """Folder of the data set. Its rows may have labels or not."""
    out: Uri
    """Folder that the new version is written to. An interrupted command continues if it is repeated."""
    policy: Literal["blend", "confident", "replace"] = "blend"
    """`blend` takes the argmax of (1 - a) p + a onehot(label), with the model's probabilities p and a = `label_weight`.
    `replace` gives every pixel the model's class. `confident` changes the pixels that confident learning flags as
    label errors: let t_c be the mean probability of class c over the pixels labelled c; a pixel labelled y changes to
    class k if k is the most probable class with p_k >= t_k, and p_k - p_y >= t_y. Rows without a label always take the
    model's label."""
    label_weight: Annotated[float, Field(ge=0, lt=0.5)] = 0.4
    """Weight a of the old label in `blend`. A pixel changes if the model's class is more probable than the label's by
    more than a / (1 - a), which is 0.67 for a = 0.4. At a = 0.5 it is 1, so nothing would change."""
    splits: Annotated[tuple[Split, ...], BeforeValidator(by_comma), Field(min_length=1), Metavar("SPLIT,...")] = (
        "train",
    )
    """Splits that get new labels, as `train,val`. The files of the other splits are kept, so that scores on them can be
    compared between versions."""
    folds: Annotated[int, Field(ge=2, le=100)] | None = None
    """Number of folds K for cross-validated labels; null: the given model labels all rows. With K, the training rows
    are divided into K folds, one model is trained per fold on the other folds, and it labels its own fold. So no model
    labels rows that it was trained on."""
    tta: bool = False
    """Average the prediction over six views: the image and its mirror image at the scales 0.75, 1 and 1.25."""
    suspects: Annotated[int, Field(ge=0, le=1000)] = 0
    """Number of rows with the worst old labels that are exported for review: a gallery, and files for CVAT, FiftyOne
    and Label Studio."""
    max_bad_fraction: Fraction = 0.05
    """Largest fraction of unusable rows. If more rows are unusable, the command stops; `quarantine/` lists them."""
    actors: ActorsConfig = ActorsConfig()


class PredictConfig(Config):
    """Predict label maps and overlays for image files (JPEG, PNG, WebP, BMP, TIFF, AVIF, and HEIC with an extra)."""

    model: Uri
    """Model directory, a run directory that holds one, or an ONNX file with a card (docs/weights.md)."""
    images: Uri
    """One image file, or a folder that is searched for images."""
    out: Uri
    """Folder that `labels/`, `colors/`, `overlays/` and `classes.json` are written to."""
    cutouts: bool = False
    """Write each face part of each image to `cutouts/` too, as a picture with a transparent background."""
    tta: bool = False
    """Average the prediction over six views: the image and its mirror image at the scales 0.75, 1 and 1.25."""
    actors: ActorsConfig = ActorsConfig()


class InspectConfig(DataConfig):
    """Show a data set before training: one HTML page with sizes, classes, remarks, random rows and unusual labels."""

    data: Uri
    """Folder of the data set. Its rows may have labels or not."""
    out: Uri
    """HTML file that is written."""
    seed: Seed = 0
    """Random seed of the rows that are shown."""


class ReportConfig(DataConfig):
    """Write one self-contained HTML page about a training run, a sweep or a relabelled data set."""

    run: Uri
    """Run directory, or folder of a data set."""
    out: Uri
    """HTML file that is written."""


class ExportConfig(Config):
    """Export a model as one deployable file, and check that the file computes the same."""

    model: Uri
    """Model directory, or a run directory that holds one."""
    format: Literal["onnx", "safetensors"]
    """`onnx` writes an ONNX graph for any batch and image size (needs the extra `onnx`); `safetensors` writes the
    weights and the model card in one file."""
    output: Literal["logits", "labels"] = "logits"
    """Output of the ONNX graph. `logits`: the scores of the classes at a quarter of the input's size. `labels`: class
    ids at the size of the photo, which a second input names; upsampling and argmax are in the graph."""
    fixed_size: bool = False
    """Make an ONNX graph for one image of the model's input size only, as some runtimes need. `labels` are then those
    of the input's pixels."""
    opset: Annotated[int, Field(ge=18, le=23)] | None = None
    """Version of ONNX's operators; null: the exporter's own, 20."""
    float16: bool = False
    """Store and compute the ONNX network in half precision; inputs and outputs stay float32."""
    out: Uri
    """File that is written."""

    @model_validator(mode="after")
    def _options_are_of_onnx(self) -> Self:
        given = [name for name in ("output", "fixed_size", "opset", "float16") if name in self.model_fields_set]
        if self.format != "onnx" and given:
            raise ValueError(f"{given[0]} is an option of format onnx; a file of weights has no graph")
        return self


Benchmark = Literal["stream", "loss", "step", "relabel", "cycle", "start"]


class BenchConfig(Config):
    """Measure speed on this machine, relative to baselines timed in the same run; takes 12 minutes on 2 cores."""

    out: Uri
    """JSON file that is written."""
    measurements: Annotated[
        tuple[Benchmark, ...], BeforeValidator(by_comma), Field(min_length=1), Metavar("NAME,...")
    ] = get_args(Benchmark)
    """Names of the measurements to make, as `stream,loss`."""
    against: Uri | None = None
    """JSON file of an earlier measurement; the table shows its ratios too."""


class StatusConfig(Config):
    """Show the progress of a run: epochs, cycles, scores, lineage. It reads storage only and needs no cluster."""

    run: Uri
    """Run directory of a `train` or `tune` command."""


class ImportWeightsConfig(Config):
    """Make a model directory from a checkpoint of the paper's authors or from an ImageNet ResNet (docs/weights.md)."""

    checkpoint: Uri
    """File with the weights, .pth or .safetensors."""
    taxonomy: TaxonomyName
    """Classes of the model: celebamask_hq, face_synthetics, helen, lapa, or a YAML file with other classes."""
    out: Uri
    """Folder that the model directory is written to."""
