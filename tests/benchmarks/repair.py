"""Does relabelling repair labels? Procedural faces whose exact labels are known; 40 % of the training ones are spoiled.

python -m tests.benchmarks.repair FOLDER [--num-images 600] [--image-size 96] [--epochs 12]
    [--seeds 1] [--folds K] [--more-epochs 4] [--train-on noisy,blend-tta,exact] [flags of train]

For each seed: a model is trained on the noisy labels; it relabels them with each policy (with --folds once more, by
models that have not seen what they label); the new training labels are compared with the exact ones (the same seed
without noise); and the teacher is trained on with each of `--train-on`, and scored on the clean test split. Also: how
well the quality score tells corrupted labels from clean ones (AUROC), by kind of corruption, if the teacher gives it
and if the model does that was trained on with exact labels. Killed, it continues.
"""

import argparse
import json
import logging
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlcsr.metrics import Counts, scores
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines import storage
from pipelines.config import options
from pipelines.config.commands import ActorsConfig, EvaluateConfig, RelabelConfig, SynthConfig
from pipelines.config.training import TrainConfig
from pipelines.data import dataset, row_groups
from pipelines.data.images import decode_label
from pipelines.inference import evaluate
from pipelines.ingest import synth
from pipelines.relabeling import relabel
from pipelines.run import console, result_file
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session
from pipelines.training import train

NOISE = 0.4
VERSIONS: Mapping[str, Mapping[str, Any]] = {
    "replace": {"policy": "replace"},
    "blend": {"policy": "blend"},
    "blend-tta": {"policy": "blend", "tta": True},
    "confident": {"policy": "confident"},
    "confident-tta": {"policy": "confident", "tta": True},
}
Row = dict[str, float]


def with_folds(num_folds: int) -> Mapping[str, Mapping[str, Any]]:
    """The versions that are made; with folds one more."""
    more = {f"confident-{num_folds}-folds": {"policy": "confident", "folds": num_folds}}
    return {**VERSIONS, **(more if num_folds else {})}


def rows_of(uri: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The training rows of a data set."""
    source = row_groups.open_split(uri, dataset.read_manifest(uri), "train")
    return row_groups.read_rows(source, source.groups.locate(0, source.num_rows), columns)


def against_exact(uri: str, exact: str) -> Row:
    """Pixel accuracy and mean F1 of training labels."""
    counts = Counts(CELEBAMASK_HQ.num_classes)
    for row, truth in zip(rows_of(uri, ["id", "label"]), rows_of(exact, ["id", "label"]), strict=True):
        assert row["id"] == truth["id"]
        counts.add(decode_label(truth["label"]), decode_label(row["label"]))
    measured = scores(counts, CELEBAMASK_HQ)
    return {"label_accuracy": measured.pixel_accuracy or 0.0, "label_f1": measured.mean_f1 or 0.0}


def auroc(bad: npt.NDArray[np.float64], good: npt.NDArray[np.float64]) -> float:
    """The probability that a bad row scores below a good one."""
    return float((bad[:, None] < good).mean() + (bad[:, None] == good).mean() / 2)


def ranking(uri: str) -> dict[str, float]:
    """AUROC of the quality score by kind of corruption, and over all."""
    found = defaultdict(list)
    for row in rows_of(uri, ["quality", "meta"]):
        found[json.loads(row["meta"])["corruption"]].append(row["quality"])
    good = np.array(found.pop(None))
    kinds = {kind: auroc(np.array(values), good) for kind, values in sorted(found.items())}
    return kinds | {"all": auroc(np.array([value for values in found.values() for value in values]), good)}


def study(folder: str, seed: int, arguments: argparse.Namespace, recipe: TrainConfig) -> dict[str, Any]:
    """Everything of one seed."""

    def place(name: str) -> str:
        return storage.join(folder, f"seed-{seed}", name)

    def done(command: str, config: Any, run: Callable[[Any], Mapping[str, Any]]) -> Mapping[str, Any]:
        return result_file.finished_result(config.out, command) or result_file.run_and_record(command, config, run)

    sizes = {"num_images": arguments.num_images, "image_size": arguments.image_size, "seed": seed}
    for name, noise in (("noisy", NOISE), ("exact", 0.0)):
        done("synth", SynthConfig(out=place(name), label_noise=noise, **sizes), synth.run)

    def trained(name: str, data: str, **changes: Any) -> str:
        config = recipe.model_copy(update={"data": place(data), "out": place(f"run-{name}"), "seed": seed, **changes})
        done("train", config, train.run)
        return config.out

    def test_f1(run: str) -> float:
        out = place(f"test-{run.rpartition('/')[2]}")
        scored = EvaluateConfig(model=run, data=place("exact"), out=out, num_overlays=0)
        return float(done("evaluate", scored, evaluate.run)["mean_f1"])

    teacher = trained("teacher", "noisy")
    print(f"seed {seed}: the teacher's mean F1 on the test split is {100 * test_f1(teacher):.2f} %", flush=True)
    found = {"noisy": against_exact(place("noisy"), place("exact"))}

    def relabelled(name: str, model: str, **flags: Any) -> str:
        actors = ActorsConfig(min_actors=2, max_actors=2)
        config = RelabelConfig(model=model, data=place("noisy"), out=place(name), actors=actors, **flags)
        done("relabel", config, relabel.run)
        return config.out

    for name, flags in with_folds(arguments.folds).items():
        found[name] = against_exact(relabelled(name, teacher, **flags), place("exact"))
    rankings = {name: ranking(place(name)) for name in found if "confident" in name}
    print(f"seed {seed}: {found} {rankings}", flush=True)
    schedule = recipe.schedule.model_copy(update={"epochs": arguments.more_epochs, "warmup_epochs": 0.5})
    found["exact"] = {"label_accuracy": 1.0, "label_f1": 1.0}
    for name in arguments.train_on.split(","):
        run = trained(f"on-{name}", name, init=teacher, schedule=schedule)
        found[name]["test_f1"] = test_f1(run)
        print(f"seed {seed}: on {name}: {100 * found[name]['test_f1']:.2f} %", flush=True)
        if name == "exact":
            rankings["by the model of exact labels"] = ranking(
                relabelled("by-exact", run, policy="confident", tta=True)
            )
    return {"versions": found, "auroc": rankings}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Means over the seeds, in percent; and AUROC."""
    lines = [
        "| training labels | pixel accuracy | mean F1 | test mean F1 of the teacher after more epochs on them |",
        "|---|---|---|---|",
    ]
    for name in results[0]["versions"]:
        cells = []
        for key in ("label_accuracy", "label_f1", "test_f1"):
            values = [100 * result["versions"][name].get(key, float("nan")) for result in results]
            each = f" ({', '.join(f'{value:.2f}' for value in values)})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{each}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    names = list(results[0]["auroc"])
    lines += ["", f"| AUROC of the quality score | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for kind in sorted({kind for result in results for kind in result["auroc"][names[0]]}):
        found = [[result["auroc"][name].get(kind) for result in results] for name in names]
        means = [statistics.mean(value for value in values if value is not None) for values in found]
        lines.append(f"| {kind} | {' | '.join(f'{value:.3f}' for value in means)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--num-images", type=int, default=600)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--more-epochs", type=int, default=4)
    parser.add_argument("--train-on", default="noisy,blend-tta,exact")
    arguments, more = parser.parse_known_args()
    given = ["--preset", "cpu-small", "--data", "/", "--out", "/", "--schedule.epochs", str(arguments.epochs), *more]
    recipe = options.resolve(TrainConfig, options.parse("train", TrainConfig, given, with_presets=True))
    results = []
    with console.logging_to_console(verbose=False), ray_session(Needs(cpus=4)):
        logging.getLogger("pipelines").setLevel(logging.WARNING)
        for seed in range(arguments.seeds):
            results.append(study(arguments.folder, seed, arguments, recipe))
            print(table(results), flush=True)


if __name__ == "__main__":
    main()
