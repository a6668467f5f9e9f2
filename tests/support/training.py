"""Helpers for tests of training: small runs and sweeps, their results, and kills of their actors."""

import json
import os
import signal
import threading
import time

import torch
from ray.util.state import list_actors

from dmlcsr.taxonomy import LAPA
from pipelines import storage
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.models import model_directory

SMOKE = {
    "model": {"depth": 18, "width": 0.125},
    "input": {"size": 64},
    "optimizer": {"batch_size": 4},
    "schedule": {"epochs": 2, "warmup_epochs": 0.5},
}
CSR = {"schedule": {"epochs": 1, "warmup_epochs": 0.5}, "csr": {"num_cycles": 2, "cycle_epochs": 1}}
SWEEP = {
    "schedule": {"epochs": 1, "warmup_epochs": 0.5},
    "csr": {"num_cycles": 2, "cycle_epochs": 1},
    "num_trials": 2,
    "early_stopping": False,
}


def smoke(data, out, **more):
    return TrainConfig.model_validate(SMOKE | {"data": str(data), "out": str(out)} | _with_one_thread(more))


def _with_one_thread(more):
    """One CPU too: the processes of the tests share the cores, and a worker of all CPUs would wait for those before."""
    return more | {"workers": {"cpus_per_worker": 1} | more.get("workers", {})}


def micro_batches(count, seed=0):
    """Yields random batches of 2 images, with labels of blocks."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        image = torch.randint(0, 256, (2, 64, 64, 3), generator=generator, dtype=torch.uint8)
        small = torch.randint(0, LAPA.num_classes, (2, 8, 8), generator=generator, dtype=torch.uint8)
        yield {"image": image, "label": small.repeat_interleave(8, 1).repeat_interleave(8, 2)}


def history(out):
    return [json.loads(line) for line in storage.read_bytes(storage.join(str(out), "metrics.jsonl")).splitlines()]


def weights(out):
    return model_directory.read_model(str(out))[0].state_dict()


def same_weights(a, b):
    return all(torch.equal(value, b[key]) for key, value in a.items())


def sweep(data, out, **more):
    return TuneConfig.model_validate(SMOKE | SWEEP | {"data": str(data), "out": str(out)} | _with_one_thread(more))


def kill_when(condition, class_name, ray_cluster):
    """Starts a thread that kills the alive actors of a class with SIGKILL as soon as `condition` holds.

    Returns the thread and the list of killed pids, which the thread fills.
    """
    killed = []

    def work():
        while not condition():
            time.sleep(0.01)
        for actor in list_actors(ray_cluster, filters=[("class_name", "=", class_name), ("state", "=", "ALIVE")]):
            os.kill(actor.pid, signal.SIGKILL)
            killed.append(actor.pid)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, killed
