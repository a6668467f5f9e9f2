"""Time of a training step (stream, loss, optimizer, reporting) against the forward and backward pass of its network.

python -m pipelines.bench.step                    cpu-small: about four minutes on 2 cores
python -m pipelines.bench.step --preset lapa --batch-size 1 --steps 8 --rounds 1    473x473 ResNet-101: about 20 minutes

Both are measured alternately in one Ray Train worker; the result is the ratio of the medians.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor

from dmlcsr.predict import normalize
from pipelines.config import options
from pipelines.config.commands import SynthConfig
from pipelines.config.training import TrainConfig
from pipelines.data import dataset
from pipelines.data.dataset import Manifest
from pipelines.ingest import synth
from pipelines.regulation import orchestrator
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.preflight import Needs
from pipelines.run.ray_train import RunConfig, ScalingConfig, TorchTrainer
from pipelines.run.session import ray_session
from pipelines.training.loop import RankTrainer


def bare_step(worker: RankTrainer, pixels: Tensor) -> None:
    """Runs the forward and backward pass of the three heads with the cheapest possible loss, a sum."""
    logits = worker.ddp_network(pixels)
    sum(task.sum() for task in logits).backward()
    worker.optimizer.zero_grad(set_to_none=True)


def measure(settings: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds per step of whole epochs with their report, and of the bare network; runs in the worker."""
    config, manifest = TrainConfig.model_validate(settings["config"]), Manifest.model_validate(settings["manifest"])
    worker = RankTrainer(config, manifest, orchestrator.train_trial_ref(config.out))
    batches = worker.train_stream.batches(0, settings["rounds"] + 1, worker.num_decode_tasks)
    image = torch.zeros((config.optimizer.batch_size, config.input.size, config.input.size, 3), dtype=torch.uint8)
    pixels = normalize(image, worker.card.preprocessing)
    seconds: dict[str, list[float]] = {"step": [], "without_report": [], "bare": []}
    for epoch in range(settings["rounds"] + 1):
        begin = time.perf_counter()
        record, _ = worker.train_epoch(epoch, batches)
        worker.history.append({"epoch": epoch + 1, "time": time.time(), VAL_MEAN_F1: 0.0, **record})
        worker.commit_epoch()
        seconds["without_report"].append(record["train_seconds"] / worker.train_stream.num_batches)
        seconds["step"].append((time.perf_counter() - begin) / worker.train_stream.num_batches)
        begin = time.perf_counter()
        for _ in range(worker.train_stream.num_batches):
            bare_step(worker, pixels)
        seconds["bare"].append((time.perf_counter() - begin) / worker.train_stream.num_batches)
    return {name: values[1:] for name, values in seconds.items()}  # the first round warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cpu-small")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    preset = options.load_yaml(options.PRESETS / f"{arguments.preset}.yaml")
    preset["optimizer"] |= {"batch_size": arguments.batch_size}
    preset["workers"] = {"num_workers": 1, "cpus_per_worker": 1, "decode_tasks": 1, "threads": arguments.threads}
    preset["schedule"] = {"epochs": 100, "warmup_epochs": 1}
    with tempfile.TemporaryDirectory() as folder, ray_session(Needs(cpus=arguments.threads + 1)):
        # Eight of every ten faces are for training.
        num_images = -(-arguments.steps * arguments.batch_size * 10 // 8 // 10) * 10
        synth.run(SynthConfig(out=f"{folder}/data", num_images=num_images))
        config = TrainConfig.model_validate(preset | {"data": f"{folder}/data", "out": f"{folder}/run"})
        manifest = dataset.read_manifest(config.data)
        trainer = TorchTrainer(
            measure,
            train_loop_config={
                "config": config.model_dump(mode="json"),
                "manifest": manifest.model_dump(mode="json"),
                "rounds": arguments.rounds,
            },
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": arguments.threads}),
            run_config=RunConfig(name="bench", storage_path=str(Path(folder) / "ray")),
        )
        seconds: dict[str, list[float]] = trainer.fit().return_value  # type: ignore[attr-defined]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {"preset": arguments.preset, "batch_size": arguments.batch_size, "threads": arguments.threads}
    print(json.dumps(result | medians | {"ratio": medians["step"] / medians["bare"], "all": seconds}))


if __name__ == "__main__":
    ray.data.DataContext.get_current().enable_progress_bars = False
    main()
