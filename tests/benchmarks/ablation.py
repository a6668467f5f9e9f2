"""Does each part of the method pay? The paper's ablation, and three ways to spend the epochs after the initial phase.

python -m tests.benchmarks.ablation FOLDER                     about an hour and a half on 2 cores; killed, it continues
python -m tests.benchmarks.ablation FOLDER --explore 15,30,60   how much noise each length of the initial phase learns
python -m tests.benchmarks.ablation FOLDER --data URI --test URI [--exact URI]      any data set

Without --data: procedural faces of which 80 % of the training labels are corrupted, scored on the exact labels of
other faces. --exact is the data set with the right training labels, for the curve of what is learned of the noise:
on the corrupted pixels, the share that is labelled as the noisy label says, and as the exact one does. What is not
known here goes to `train` in place of the study's own flags. Results are printed, and kept in FOLDER.
"""

import argparse
import logging
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cluster.head import Head, ray_head
from dmlcsr.model import DMLCSR
from dmlcsr.predict import Predictor
from pipelines.config.training import TrainConfig
from pipelines.data import dataset, row_groups
from pipelines.data.images import decode_image, decode_label
from pipelines.models import checkpoint, setup, weight_files
from pipelines.regulation.ledger import Ensemble, Ledger, Student
from pipelines.run import result_file, run_directory

ROOT = Path(__file__).parents[2]
NOTHING = {"model.ddgcn": False, "loss.binary-edge": 0, "loss.category-edge": 0, "loss.binary-edge-attention": 0}
PARTS: dict[str, dict[str, Any]] = {
    "parsing only": NOTHING,
    "+ DDGCN": NOTHING | {"model.ddgcn": True},
    "+ binary edge": {"loss.category-edge": 0},
    "+ category edge": {},
}
"""the initial phases: each adds a part to the one before."""
FULL = "+ category edge"
REGIME = ("--model.width", "0.125", "--augmentation.rotation", "5", "--augmentation.scale", "0.05")
"""Where noise begins to be learned as the initial phase ends; the README tells how it was chosen."""
DECAY, RESTARTS, AVERAGES, CSR = "one decay", "restarts", "restarts + averages", "CSR"


class Settings(NamedTuple):
    """Of the whole study; `more` are flags of `train`."""

    folder: Path
    data: str | None
    test: str | None
    exact: str | None
    num_images: int
    image_size: int
    label_noise: float
    seeds: int
    initial_epochs: int
    cycles: int
    cycle_epochs: int
    more: Sequence[str]


class Study:
    """All runs of one study, below its folder."""

    def __init__(self, settings: Settings, head: Head) -> None:
        self.settings, self.head = settings, head

    def command(self, *arguments: object) -> None:
        """Runs `ray_job.py` on the head. Raises CalledProcessError, after its message, where it fails."""
        environment = os.environ | self.head.driver_environment
        done = subprocess.run(
            [sys.executable, str(ROOT / "ray_job.py"), *map(str, arguments)],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.stderr.write(done.stderr)
            done.check_returncode()

    def synth(self, name: str, seed: int, noise: float, num_images: int | None = None) -> str:
        out, s = str(self.settings.folder / "data" / name), self.settings
        if result_file.finished_result(out, "synth") is None:
            self.command(
                "synth", "--out", out, "--num-images", num_images or s.num_images, "--image-size", s.image_size,
                "--seed", seed, "--label-noise", noise,
            )  # fmt: skip
        return out

    def data(self, seed: int) -> str:
        return self.settings.data or self.synth(f"noisy-{seed}", seed, self.settings.label_noise)

    def exact(self, seed: int) -> str | None:
        if self.settings.data:
            return self.settings.exact
        return self.synth(f"exact-{seed}", seed, 0.0)

    def prepare(self, seeds: Sequence[int]) -> None:
        """Makes the data sets, before runs share them."""
        for seed in seeds:
            self.data(seed)
            self.exact(seed)
        self.test()

    def out(self, seed: int, name: str) -> str:
        return str(self.settings.folder / f"seed-{seed}" / re.sub(r"\W+", "-", name))

    def train(self, seed: int, name: str, flags: Mapping[str, Any]) -> str:
        """One training; returns its run directory."""
        out = self.out(seed, name)
        if result_file.finished_result(out, "train") is None:
            options = [part for key, value in flags.items() for part in (f"--{key}", value)]
            self.command(
                "train", "--data", self.data(seed), "--out", out, "--seed", seed, *options, *self.settings.more
            )
            print(f"seed {seed}: {name} trained", flush=True)
        return out

    def warm(self, seed: int, part: str, epochs: int | None = None) -> str:
        length = epochs or self.settings.initial_epochs
        return self.train(seed, f"warm-{length} {part}", {"schedule.epochs": length} | PARTS[part])

    def after(self, seed: int, part: str, name: str, method: str, cycles: int, cycle_epochs: int) -> str:
        """Continues the initial phase of a part."""
        schedule: dict[str, Any] = {
            "schedule.epochs": self.settings.initial_epochs,
            "csr.initial-run": self.warm(seed, part),
            "csr.method": method,
            "csr.num-cycles": cycles,
            "csr.cycle-epochs": cycle_epochs,
        }
        return self.train(seed, name, schedule | PARTS[part])

    def decay(self, seed: int, part: str) -> str:
        epochs = self.settings.cycles * self.settings.cycle_epochs
        return self.after(seed, part, f"{part} decay", "restarts", 1, epochs)

    def cyclical(self, seed: int, name: str, method: str) -> str:
        return self.after(seed, FULL, name, method, self.settings.cycles, self.settings.cycle_epochs)

    def test(self) -> tuple[str, str]:
        """Data set and split with exact labels."""
        if self.settings.data:
            return self.settings.test or self.settings.data, "test"
        return self.synth("test", 1000, 0.0, num_images=500), "train"

    def score(self, run: str) -> float:
        """Mean F1 on the test labels of what the run exported, chosen on its validation split."""
        test, split = self.test()
        out = f"{run}/test-scores"
        if result_file.finished_result(out, "evaluate") is None:
            self.command("evaluate", "--model", run, "--data", test, "--split", split, "--out", out)
        result = result_file.finished_result(out, "evaluate")
        assert result is not None
        score: float = result["mean_f1"]
        return score


def memorised(config: TrainConfig, state: Mapping[str, Tensor], exact: str) -> tuple[float, float]:
    """On the corrupted pixels of the training labels: the share predicted as they say, and as they should."""
    card = setup.model_card(config, dataset.read_manifest(config.data).taxonomy)
    network = DMLCSR(card.architecture)
    network.load_state_dict(dict(state))
    predictor = Predictor(network.decoupled(), card)
    wrong = noisy_agreed = exact_agreed = 0
    for noisy, right in zip(_training_rows(config.data), _training_rows(exact), strict=True):
        given, truth = decode_label(noisy["label"]), decode_label(right["label"])
        predicted = predictor.label_map(decode_image(noisy["image"]))
        corrupted = given != truth
        wrong += int(corrupted.sum())
        noisy_agreed += int((predicted == given)[corrupted].sum())
        exact_agreed += int((predicted == truth)[corrupted].sum())
    return noisy_agreed / max(wrong, 1), exact_agreed / max(wrong, 1)


def _training_rows(uri: str) -> list[dict[str, Any]]:
    source = row_groups.open_split(uri, dataset.read_manifest(uri), "train")
    return row_groups.read_rows(source, source.groups.locate(0, source.num_rows), ("image", "label"))


def _config(run: str) -> TrainConfig:
    config = run_directory.read_config(run)
    assert config is not None
    return config


def explore(study: Study, lengths: Sequence[int]) -> Iterator[str]:
    """How much of the noise each length of the initial phase learns, and what it costs on the validation split."""
    study.prepare([0])
    exact = study.exact(0)
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda length: study.warm(0, FULL, length), lengths))
    yield f"{'epochs':>7}{'validation %':>14}{'as noisy %':>12}{'as exact %':>12}"
    for length, run in zip(lengths, runs, strict=True):
        last = setup.last_checkpoint(run)
        with last.as_directory() as folder:
            state = checkpoint.load_network(Path(folder))
        shares = memorised(_config(run), state, exact) if exact else (float("nan"),) * 2
        score = run_directory.read_metrics(run)[-1]["val_mean_f1"]
        yield f"{length:>7}{100 * score:>14.2f}{100 * shares[0]:>12.1f}{100 * shares[1]:>12.1f}"


def curve(study: Study, seed: int, run: str) -> Iterator[str]:
    """What students and averages have learned of the noise, at the end of each cycle."""
    exact = study.exact(seed)
    ledger = Ledger(run)
    for records in (ledger.of(Student, "train"), ledger.of(Ensemble, "train")):
        for record in records:
            shares = memorised(_config(run), weight_files.read_weights(record.weights), exact) if exact else (0.0, 0.0)
            who = f"seed {seed}, {Path(run).name:<20} {type(record).__name__.lower():<9} {record.cycle:>2}"
            noisy, right = (f"{100 * share:.1f}" for share in shares)
            yield f"{who}: validation {100 * record.val_mean_f1:.2f}, as noisy {noisy}, as exact {right}"


def main_study(study: Study) -> Iterator[str]:
    """Trains everything, two runs side by side, and tells the tables."""
    seeds = list(range(study.settings.seeds))
    rows: dict[str, Callable[[int], str]] = {
        CSR: lambda seed: study.cyclical(seed, CSR, "full"),
        AVERAGES: lambda seed: study.cyclical(seed, AVERAGES, "averages"),
        RESTARTS: lambda seed: study.cyclical(seed, RESTARTS, "restarts"),
    }
    for part in PARTS:
        rows[part] = partial(study.decay, part=part)
    study.prepare(seeds)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: study.warm(*job), [(seed, part) for seed in seeds for part in reversed(PARTS)]))
        jobs = [(name, seed) for seed in seeds for name in rows]
        scored = list(pool.map(lambda job: study.score(rows[job[0]](job[1])), jobs))
    scores = dict(zip(jobs, scored, strict=True))
    yield from _table("parts", {name: [scores[name, s] for s in seeds] for name in (*PARTS, CSR)})
    schedules = {DECAY: FULL, RESTARTS: RESTARTS, AVERAGES: AVERAGES, CSR: CSR}
    yield from _table("schedules", {name: [scores[row, s] for s in seeds] for name, row in schedules.items()})
    for seed in seeds:
        for name in (AVERAGES, CSR):
            yield from curve(study, seed, study.out(seed, name))


def _table(title: str, rows: Mapping[str, Sequence[float]]) -> Iterator[str]:
    yield f"\n| {title} | mean F1 % | lowest - highest | by seed |\n|---|---|---|---|"
    for name, scores in rows.items():
        percent = [100 * score for score in scores]
        by_seed = ", ".join(f"{score:.2f}" for score in percent)
        yield f"| {name} | {statistics.mean(percent):.2f} | {min(percent):.2f} - {max(percent):.2f} | {by_seed} |"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=lambda text: Path(text).absolute())
    parser.add_argument("--explore", type=lambda text: [int(part) for part in text.split(",")])
    for name in ("data", "test", "exact"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--num-images", type=int, default=300)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--label-noise", type=float, default=0.8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--initial-epochs", type=int, default=40)
    parser.add_argument("--cycles", type=int, default=5)
    parser.add_argument("--cycle-epochs", type=int, default=5)
    known, more = parser.parse_known_args()
    values = vars(known)
    lengths = values.pop("explore")
    torch.set_num_threads(1)
    logging.getLogger("ray").setLevel(logging.WARNING)  # reading a checkpoint is told at length
    settings = Settings(**values, more=["--input.size", str(known.image_size), *(more or REGIME)])
    with ray_head(settings.folder / "ray", num_cpus=4) as head:
        study = Study(settings, head)
        lines = explore(study, lengths) if lengths else main_study(study)
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
