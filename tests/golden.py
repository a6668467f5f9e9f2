"""Makes the golden values of tests/data again, from the formulas of docs/method.md, and compares.

python -m tests.golden              prints the largest difference of each value; exit code 1 if one is too large
python -m tests.golden FILE...      only these files of tests/data, by name or path
python -m tests.golden --write      also puts what is missing or differs into the files; the rest stays as it is

What is here is slow, simple, in float64, and independent of `dmlcsr`: it imports nothing of it. Loops and autograd
stand where `dmlcsr` has closed forms. The inputs were drawn from a seed and are stored beside the values. Values
are made from the stored inputs: another version of NumPy may draw other numbers, and changes no value.

To add a golden value, for instance of a sixth loss term `smoothness` (docs/extending.md says what else a new
term needs):

1. Write the term here as a function of the inputs, with plain torch operations, from its formula.
2. Add it to `terms` of `_losses` as `"loss_smoothness": ...`, and its default weight to `weights` there:
   `loss_total` is the weighted sum.
3. Where it needs an input of its own, draw that at the end of `_draw_regulation`, with a generator of its own: what
   is drawn already must not change.
4. Run `python -m tests.golden --write regulation_edges_losses.npz`. It adds the new keys; look at the differences it
   prints: `loss_total` may change, and nothing else.

`test_every_term_equals_the_reference` of tests/unit/dmlcsr/test_losses.py then compares the new field of `LossTerms`
with `loss_smoothness`, and tests/unit/dmlcsr/test_golden.py keeps this module and the files together.

What cannot be made again here:

- `official_state_dict_c11.json`: every key of the authors' state dict in training, for 11 classes, and its shape. It
  was read off their network. `official_forward_c11.npz`: that network's logits (`parsing`, `binary_edge`,
  `category_edge`) in eval mode and float64. The weights are those of `official_value` in
  tests/unit/dmlcsr/test_model.py, drawn for each key from a seed that is the CRC-32 of the key; the input is
  `numpy.random.default_rng(seed).normal(0, 1, input_shape)` with `seed` and `input_shape` of the file. Only the
  authors' code gives these values, and it does not run as released; what was changed to make it run is not recorded.
- `label_studio_rle.json`: what `label_studio_sdk.converter.brush.encode_rle` 2.1.2 gives for the masks of `mask_of` in
  tests/unit/relabeling/test_masks.py. That package is not among the dependencies.
- `imagenet_state_dicts.json.xz`: the names and shapes of the weights of torchvision's and timm's ResNets;
  `python -m tests.imagenet --write` makes it, with both packages, which are not among the dependencies.
- `turned.heic`: a small drawn picture with EXIF orientation 6, which `pillow_heif` encoded; `pi_heif`, which is among
  the dependencies, only decodes.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Array = npt.NDArray[Any]
Values = dict[str, Array]

DATA = Path(__file__).parent / "data"
IGNORE = 255
NOT_MADE_HERE = (
    "official_forward_c11.npz", "official_state_dict_c11.json", "imagenet_state_dicts.json.xz",
    "label_studio_rle.json", "turned.heic",
)  # fmt: skip


# docs/method.md, section 3: targets


def edges(label: Array, radius: int) -> tuple[Array, Array]:
    """(binary, category) edges of one label map (H, W)."""
    height, width = label.shape
    binary, category = np.full_like(label, IGNORE), np.full_like(label, IGNORE)
    for y in range(height):
        for x in range(width):
            if label[y, x] == IGNORE:
                continue
            window = label[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
            binary[y, x] = len(set(window.ravel().tolist()) - {IGNORE}) > 1
            category[y, x] = label[y, x] * binary[y, x]
    return binary, category


def _edges_of_all(labels: Array, radius: int) -> tuple[Array, Array]:
    pairs = [edges(label, radius) for label in labels]
    return np.stack([binary for binary, _ in pairs]), np.stack([category for _, category in pairs])


# docs/method.md, section 4: losses. Labels and edges are int64 (B, H, W), logits float64 (B, C, H, W).


def _pixel_loss(logits: Tensor, label: Tensor) -> Tensor:
    """(B, H, W): -log softmax at the pixel's label, 0 where it is ignored."""
    return F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")


def _mean_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy, averaged over the valid pixels."""
    return _pixel_loss(logits, label)[label != IGNORE].mean()


def _weighted_loss(logits: Tensor, edge: Tensor, class_weights: Sequence[float]) -> Tensor:
    """sum of w * loss over sum of w, with the weight w of each valid pixel's class."""
    valid = edge != IGNORE
    weights = torch.tensor(class_weights, dtype=torch.float64)[edge[valid]]
    return (weights * _pixel_loss(logits, edge)[valid]).sum() / weights.sum()


def _attention_loss(logits: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """Mean over each image's pixels of the mask, 0 where it has none, then over all images."""
    losses = _pixel_loss(logits, label)
    images = [
        loss[inside].mean() if inside.any() else loss.new_zeros(()) for loss, inside in zip(losses, mask, strict=True)
    ]
    return torch.stack(images).mean()


def _lovasz(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over the classes present, pooled over the batch, of sum_i e_i (J_i - J_(i-1)), e from large to small."""
    valid = label != IGNORE
    probabilities = logits.softmax(1).transpose(0, 1)[:, valid]
    losses = []
    for k in label[valid].unique().tolist():
        foreground = label[valid] == k
        p = probabilities[k]
        errors, order = torch.where(foreground, 1 - p, p).sort(descending=True)
        hits = foreground[order].long()
        total, seen, others = hits.sum(), hits.cumsum(0), (1 - hits).cumsum(0)
        jaccard = 1 - (total - seen) / (total + others).double()
        losses.append((errors * torch.diff(jaccard, prepend=jaccard.new_zeros(1))).sum())
    return torch.stack(losses).mean()


def _kl(target: Tensor, logits: Tensor, label: Tensor) -> Tensor:
    """KL(target || softmax(logits)), averaged over the valid pixels."""
    pixels = (target * (target.log() - logits.log_softmax(1))).sum(1)
    return pixels[label != IGNORE].mean()


def _distillation_target(teacher: Tensor, label: Tensor, hard_weight: float) -> Tensor:
    """(1 - a) softmax(teacher) + a onehot(label), a = `hard_weight`; on ignored pixels the label counts as 0."""
    onehot = F.one_hot(label.masked_fill(label == IGNORE, 0), teacher.shape[1]).movedim(-1, 1).double()
    return (1 - hard_weight) * teacher.softmax(1) + hard_weight * onehot


def _binary_weights(binary: Tensor) -> list[float]:
    positive, negative = int((binary == 1).sum()), int((binary == 0).sum())
    return [positive / (positive + negative), negative / (positive + negative)]


def _category_weights(category: Tensor, num_classes: int) -> list[float]:
    valid = category[category != IGNORE].tolist()
    return [1 - valid.count(k) / len(valid) for k in range(num_classes)]


def _tensor(value: Array) -> Tensor:
    return torch.from_numpy(np.asarray(value).astype(np.float64 if value.dtype.kind == "f" else np.int64))


def _losses(inputs: Values) -> Values:
    """The terms for edges of radius 1, their total with the default weights, and the distilled terms."""
    tasks = ("parsing", "binary", "category")
    parsing, binary_edge, category_edge = (_tensor(inputs[f"{task}_logits"]) for task in tasks)
    label = _tensor(inputs["labels"])
    binary, category = (_tensor(edge) for edge in _edges_of_all(inputs["labels"], 1))
    binary_weights = _binary_weights(binary)
    category_weights = _category_weights(category, category_edge.shape[1])
    lovasz, ce = _lovasz(parsing, label), _mean_loss(parsing, label)
    terms = {
        "loss_parsing": 0.5 * lovasz + 0.5 * ce,
        "loss_binary_edge": _weighted_loss(binary_edge, binary, binary_weights),
        "loss_category_edge": _weighted_loss(category_edge, category, category_weights),
        "loss_binary_edge_attention": _attention_loss(parsing, label, binary == 1),
        "loss_category_edge_attention": _attention_loss(parsing, label, (category > 0) & (category != IGNORE)),
    }
    weights = {
        "loss_parsing": 1.0,
        "loss_binary_edge": 1.0,
        "loss_category_edge": 0.1,
        "loss_binary_edge_attention": 4.0,
        "loss_category_edge_attention": 1.0,
    }
    total = sum(weights[name] * value for name, value in terms.items())
    hard_weight = float(inputs["hard_weight"])
    targets = {
        task: _distillation_target(_tensor(inputs[f"teacher_{task}_logits"]), hard, hard_weight)
        for task, hard in zip(tasks, (label, binary, category), strict=True)
    }
    values = terms | {
        "loss_lovasz": lovasz,
        "loss_ce": ce,
        "loss_total": total,
        "binary_weights": binary_weights,
        "category_weights": category_weights,
        "target_parsing": targets["parsing"],
        "loss_kd_parsing": _kl(targets["parsing"], parsing, label),
        "loss_kd_binary": _kl(targets["binary"], binary_edge, binary),
        "loss_kd_category": _kl(targets["category"], category_edge, category),
    }
    return {name: np.asarray(value) for name, value in values.items()}


def _lovasz_and_kl(inputs: Values) -> Values:
    """Both losses with their gradients with respect to the logits, by autograd."""
    logits, label = _tensor(inputs["logits"]).requires_grad_(), _tensor(inputs["labels"])
    lovasz = _lovasz(logits, label)
    kl = _kl(_tensor(inputs["teacher_logits"]).softmax(1), logits, label)
    (lovasz_gradient,) = torch.autograd.grad(lovasz, logits)
    (kl_gradient,) = torch.autograd.grad(kl, logits)
    return {
        "lovasz": lovasz.detach().numpy(),
        "lovasz_grad": lovasz_gradient.numpy(),
        "kl_hard_from_teacher": kl.detach().numpy(),
        "kl_grad": kl_gradient.numpy(),
    }


# docs/method.md, sections 5 and 6: schedule and self-regulation


def _learning_rate(epoch: float, lr: float = 1e-3, warmup: float = 10, start: float = 150, cycle: float = 10) -> float:
    low = lr / 100
    if epoch < warmup:
        return low + (lr - low) * epoch / warmup
    if epoch < start:
        high, share = lr, (epoch - warmup) / (start - warmup)
    else:
        high, share = lr / 2, ((epoch - start) % cycle) / cycle
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2


def _regulation(inputs: Values) -> Values:
    ensembles = [inputs["students"][0]]
    for n, student in enumerate(inputs["students"][1:], start=1):
        ensembles.append(n / (n + 1) * ensembles[-1] + 1 / (n + 1) * student)
    batches = [inputs[f"bn_batch_{i}"] for i in range(3)]
    sizes = [len(batch) for batch in batches]
    return {
        "learning_rates": np.array([_learning_rate(epoch) for epoch in inputs["epochs"].tolist()]),
        "ensembles": np.stack(ensembles),
        "bn_mean": np.average([batch.mean((0, 2, 3)) for batch in batches], axis=0, weights=sizes),
        "bn_var": np.average([batch.var((0, 2, 3), ddof=1) for batch in batches], axis=0, weights=sizes),
    }


# docs/method.md, section 8: scores


def _scores(inputs: Values) -> Values:
    """Of all images together; rows of the confusion matrix are the truth."""
    confusion = np.zeros((6, 6), np.int64)
    for truth, predicted in zip(inputs["gt"].ravel().tolist(), inputs["pred"].ravel().tolist(), strict=True):
        if truth != IGNORE:
            confusion[truth, predicted] += 1
    hits, truths, predictions = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    f1 = 2 * hits / (truths + predictions)
    return {
        "confusion": confusion,
        "f1": f1,
        "iou": hits / (truths + predictions - hits),
        "mean_f1_foreground": f1[1:].mean(),
    }


# The files: how their inputs were drawn, and what is made of them


def _draw_metrics() -> Values:
    """Class 5 is never a label of the losses, but is one of the scores."""
    rng = np.random.default_rng(11)
    logits = rng.normal(0, 2, (2, 6, 20, 16)).astype(np.float32)
    labels = rng.integers(0, 5, (2, 20, 16))
    labels[0, :3], labels[1, :, :2] = IGNORE, IGNORE
    teacher = rng.normal(0, 2, (2, 6, 20, 16)).astype(np.float32)
    gt = rng.integers(0, 6, (3, 30, 30))
    gt[0, :4] = IGNORE
    kept = rng.random(gt.shape) < 0.7
    pred = np.where(kept, gt, rng.integers(0, 6, gt.shape))
    pred[pred == IGNORE] = 0
    return {"logits": logits, "labels": labels, "teacher_logits": teacher, "gt": gt, "pred": pred}


def _draw_regulation() -> Values:
    """Six classes; class 5 never occurs, image 2 has no edge."""
    rng = np.random.default_rng(21)
    rows, columns = np.mgrid[:24, :20]
    labels = np.zeros((3, 24, 20), np.uint8)
    for label in labels[:2]:
        for _ in range(6):
            y, x, radius, k = (int(rng.integers(*bounds)) for bounds in ((2, 22), (2, 18), (2, 7), (0, 5)))
            label[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = k
    labels[0, :3], labels[1, :, 18:], labels[2] = IGNORE, IGNORE, 1
    values: Values = {"labels": labels}
    for prefix in ("", "teacher_"):
        for task, classes in (("parsing", 6), ("binary", 2), ("category", 6)):
            values[f"{prefix}{task}_logits"] = rng.normal(0, 2, (3, classes, 24, 20))
    for i, size in enumerate((4, 4, 3)):
        values[f"bn_batch_{i}"] = rng.normal(1, 2, (size, 4, 5, 5))
    values["students"] = rng.normal(0, 1, (5, 7))
    values["hard_weight"] = np.array(1 / 3)
    epochs = [0, 0.5, 5, 10, 11.25, 80, 149.9, 150, 152.5, 155, 159.99, 160, 165.5, 199.75]
    values["epochs"] = np.array(epochs)
    return values


def _regulation_edges_losses(inputs: Values) -> Values:
    values = _losses(inputs) | _regulation(inputs)
    for radius in (1, 2):
        binary, category = _edges_of_all(inputs["labels"], radius)
        values |= {f"binary_edge_r{radius}": binary, f"category_edge_r{radius}": category}
    return values


def _losses_metrics(inputs: Values) -> Values:
    return _lovasz_and_kl(inputs) | _scores(inputs)


class Recipe(NamedTuple):
    """How a file is made."""

    draw: Callable[[], Values]
    """The inputs, from a seed."""
    make: Callable[[Values], Values]
    """The values of the inputs."""


RECIPES = {
    "losses_metrics.npz": Recipe(_draw_metrics, _losses_metrics),
    "regulation_edges_losses.npz": Recipe(_draw_regulation, _regulation_edges_losses),
}


def read(path: Path) -> Values:
    """The arrays of a file, by key."""
    with np.load(path) as stored:
        return dict(stored)


def make_again(name: str, stored: Values) -> Values:
    """Every value of that file, as it follows from the stored inputs; an input that the file lacks is drawn."""
    draw, make = RECIPES[name]
    inputs = {key: stored.get(key, drawn) for key, drawn in draw().items()}
    return {key: value for key, value in inputs.items() if key not in stored} | make(inputs)


TOLERANCE = 1e-12
SINGLE_PRECISION = {"lovasz": 1e-7, "lovasz_grad": 1e-8, "kl_hard_from_teacher": 1e-7, "kl_grad": 1e-8}
"""Values that were computed in float32, and how much they may differ."""


def difference(stored: Array | None, made: Array | None) -> float:
    """The largest absolute difference; infinite where one of the two is missing or has another shape."""
    if stored is None or made is None or stored.shape != made.shape:
        return math.inf
    return float(np.abs(stored.astype(np.float64) - made.astype(np.float64)).max())


def compare(path: Path, write: bool) -> bool:
    """Prints the difference of each value and says whether all are rounding; with `write`, mends the file."""
    stored, drawn = read(path), RECIPES[path.name].draw()
    made = make_again(path.name, stored)
    for key, value in drawn.items():
        print(f"{path.name}  {key:24} {difference(stored.get(key), value):9.1e}  input, from its seed")
    wrong = []
    for key in [key for key in stored | made if key in made or key not in drawn]:
        distance = difference(stored.get(key), made.get(key))
        within = distance <= SINGLE_PRECISION.get(key, TOLERANCE)
        print(f"{path.name}  {key:24} {distance:9.1e}{'' if within else '  WRONG'}")
        wrong += [] if within else [key]
    mended = {key: made[key].astype(stored.get(key, made[key]).dtype) for key in wrong if key in made}
    if write and mended:
        np.savez_compressed(path, **(stored | mended))  # type: ignore[arg-type]
        print(f"{path.name}  written: {', '.join(mended)}")
    return not wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 where every value is as it is stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="a file of tests/data; none: all that can be made")
    parser.add_argument("--write", action="store_true", help="put what is missing or differs into the files")
    options = parser.parse_args(arguments)
    good = True
    for path in map(Path, options.files or RECIPES):
        if path.name in NOT_MADE_HERE:
            print(f"{path.name}  cannot be made again here; `python -m tests.golden --help` says how it was made")
        elif path.name not in RECIPES:
            parser.error(f"{path.name} is not one of {', '.join((*RECIPES, *NOT_MADE_HERE))}")
        else:
            good &= compare(path if path.exists() else DATA / path.name, options.write)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
