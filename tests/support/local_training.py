"""A training worker in this process, by Ray Train's local mode: no cluster, no data."""

from collections.abc import Callable
from typing import TypeVar

from dmlcsr.taxonomy import LAPA
from pipelines.config.base import SPLITS
from pipelines.config.training import TrainConfig
from pipelines.data.dataset import DataFile, Manifest
from pipelines.regulation.orchestrator import train_trial_ref
from pipelines.run.ray_train import ScalingConfig, TorchTrainer
from pipelines.training.loop import RankTrainer

T = TypeVar("T")


def manifest(**num_rows: int) -> Manifest:
    """A data set of one file for each split, which is never read."""
    splits = {
        split: (DataFile(path=f"{split}/part-00000.parquet", num_rows=count, num_bytes=1, sha256="0"),)
        for split in SPLITS
        if (count := num_rows.get(split))
    }
    return Manifest(label_taxonomy=LAPA, splits=splits, digest="0")


def as_only_worker(config: TrainConfig, work: Callable[[RankTrainer], T]) -> T:
    """Returns what `work` returns for the only worker of a training."""
    answers: list[T] = []

    def train(_: dict[str, object]) -> None:
        worker = RankTrainer(config, manifest(train=64, val=8), train_trial_ref(config.out))
        answers.append(work(worker))

    TorchTrainer(train, train_loop_config={}, scaling_config=ScalingConfig(num_workers=0)).fit()
    return answers[0]
