"""Timings on a GPU: the step against the bare network, inference, and peak memory."""

import statistics
import time
from collections.abc import Callable

import torch

from dmlcsr.predict import Predictor, normalize
from tests.gpu.faces import Scale, Training, noise

WARM_UP = 3


def seconds_each(work: Callable[[], object], num_steps: int, device: torch.device) -> float:
    """Seconds per call, without those of the first calls; the host runs ahead of the device as in a training."""
    for _ in range(WARM_UP):
        work()
    begin = _finished(device)
    for _ in range(num_steps):
        work()
    return (_finished(device) - begin) / num_steps


def _finished(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def training_speed(scale: Scale, device: torch.device, *, compiled: bool) -> dict[str, float]:
    """Milliseconds of a step and of the bare network, measured in turns, their ratio, images/s, and peak memory."""
    torch.backends.cudnn.benchmark = True
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    training, (image, label) = Training(scale, device, bf16=True, compiled=compiled), noise(scale, device)
    pixels = normalize(image, scale.card.preprocessing)
    step, bare = [], []
    for _ in range(3):
        step.append(seconds_each(lambda: training.step(image, label), scale.num_steps, device))
        bare.append(seconds_each(lambda: training.bare_step(pixels), scale.num_steps, device))
    seconds, bare_seconds = statistics.median(step), statistics.median(bare)
    return {
        "step_ms": 1e3 * seconds,
        "bare_ms": 1e3 * bare_seconds,
        "ratio": seconds / bare_seconds,
        "images_per_second": scale.batch_size / seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0,
    }


def inference_speed(scale: Scale, device: torch.device) -> dict[str, float]:
    """Images/s of the predictor: canvases from the host, label maps of 473 x 473 pixels back to it."""
    predictor = Predictor(Training(scale, device, bf16=True).network.decoupled(), scale.card, str(device))
    canvases = noise(scale, torch.device("cpu"))[0].numpy()
    sizes = scale.batch_size * [(473, 473)]
    seconds = seconds_each(lambda: predictor.label_maps(canvases, sizes), scale.num_steps, device)
    return {"images_per_second": scale.batch_size / seconds}
