"""Ray Data actors that hold a model."""

from collections.abc import Mapping
from typing import Any

import ray.data
import torch

from dmlcsr.onnx_parser import OnnxParser
from dmlcsr.predict import Predictor
from pipelines.config.commands import ActorsConfig
from pipelines.errors import UserError
from pipelines.models import parsers
from pipelines.run import console, preflight
from pipelines.run.preflight import Capacity, Needs


class ModelActor:
    """An actor that loads a model once; subclasses process batches with it."""

    def __init__(self, model: str, use_gpu: bool, tta: bool) -> None:
        self.predictor = load_predictor(model, use_gpu, tta)


def load_predictor(model: str, use_gpu: bool, tta: bool) -> Predictor:
    """Loads the model of an actor, which may then use one thread."""
    console.forward_logs_to_driver()
    # Actors share the cores with the tasks that decode.
    torch.set_num_threads(1)
    parser, card = parsers.read_parser(model)
    if tta and isinstance(parser, OnnxParser) and parser.has_fixed_size:
        raise UserError(f"{model} takes images of one size only; omit --tta, which shows it three")
    return Predictor(parser, card, "cuda" if use_gpu else "cpu", tta)


def needs(config: ActorsConfig) -> Needs:
    """The CPUs and GPUs that the smallest pool needs at once, with one CPU to read and decode."""
    return Needs(
        cpus=config.min_actors + 1,
        gpus=config.min_actors * config.use_gpu,
        num_workers=config.min_actors,
        worker_cpus=1,
        gpu_option="" if config.use_gpu else "--actors.use-gpu",
    )


def max_actors(config: ActorsConfig, cluster: Capacity) -> int:
    """The largest number of actors of the pool. Ray Data itself keeps some CPUs free for the tasks that read."""
    if config.max_actors is not None:
        return config.max_actors
    held = min(cluster.cpus, cluster.gpus) if config.use_gpu else cluster.cpus
    return max(config.min_actors, int(held))


def map_options(config: ActorsConfig) -> Mapping[str, Any]:
    """Arguments of Ray Data's `map` for an actor pool on the connected cluster, within the configured bounds."""
    largest = max_actors(config, preflight.capacity())
    return {
        "compute": ray.data.ActorPoolStrategy(min_size=config.min_actors, max_size=largest),
        "num_cpus": 1,
        "num_gpus": 1 if config.use_gpu else 0,
    }


def map_batches_options(config: ActorsConfig) -> Mapping[str, Any]:
    """Arguments of Ray Data's `map_batches` for such a pool, with the configured batch size."""
    return {**map_options(config), "batch_size": config.batch_size, "batch_format": "numpy"}
