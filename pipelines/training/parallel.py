"""Prepares the network of a training worker for its device, and for the other workers."""

from typing import Any, TypeVar

import ray.train.torch
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from pipelines.config.training import TrainConfig
from pipelines.config.workers import GpuConfig

Network = TypeVar("Network", bound=nn.Module)
SYNC_BELOW = 16
"""Images of a micro-batch from which on its own BatchNorm statistics are good enough. SyncBatchNorm makes two small
collective operations for each of the network's 127 norms in each step."""


def syncs_batch_norm(config: TrainConfig) -> bool:
    """True if the workers of a training on GPUs share their BatchNorm statistics in each step."""
    if config.workers.num_workers == 1 or not config.workers.use_gpu:
        return False
    chosen = config.gpu.sync_batch_norm
    return config.optimizer.batch_size < SYNC_BELOW if chosen is None else chosen


def set_up_device(config: GpuConfig) -> None:
    """Sets the switches of the process; they do nothing without a GPU."""
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    torch.backends.cudnn.allow_tf32 = config.tf32


def on_device(network: Network, config: TrainConfig, device: torch.device) -> Network:
    """The network on the device, in channels_last, with SyncBatchNorm if the training uses it."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if syncs_batch_norm(config):
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return network


def distributed(network: nn.Module, config: TrainConfig, device: torch.device) -> nn.Module:
    """The network as DDP runs it if there are several workers; compiled in place if that is configured."""
    if config.gpu.compile and device.type == "cuda":
        network.compile()
    # SyncBatchNorm gives all workers the same buffers, so rank 0 need not send its own before each step.
    options: dict[str, Any] = {"broadcast_buffers": False} if syncs_batch_norm(config) else {}
    prepared: nn.Module = ray.train.torch.prepare_model(network, parallel_strategy_kwargs=options)
    if config.gpu.bf16_gradients and isinstance(prepared, DistributedDataParallel) and device.type == "cuda":
        prepared.register_comm_hook(None, bf16_compress_hook)
    return prepared
