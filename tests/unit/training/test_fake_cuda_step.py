"""The whole training step on a pretended GPU: what would make the host wait for it is an error."""

import pytest
import torch

from dmlcsr.model import DMLCSR
from pipelines.models.setup import build_optimizer
from pipelines.models.teachers import TeacherNetwork
from pipelines.training.finite import FiniteSteps
from tests.support.cuda import cuda_autocast_works
from tests.support.fake_cuda import Kernels, fake_cuda
from tests.support.local_training import as_only_worker
from tests.support.training import smoke

MICRO_BATCHES = 2


def move_to_fake_cuda(worker):
    worker.device = torch.device("cuda")
    with worker.device:
        worker.network = worker.ddp_network = DMLCSR(worker.card.architecture)
    worker.optimizer = build_optimizer(worker.network, worker.config.optimizer)
    worker.finite_steps = FiniteSteps(worker.optimizer, worker.device)


def micro_batches(worker):
    size = worker.config.input.size
    for _ in range(MICRO_BATCHES):
        image = torch.empty(2, size, size, 3, dtype=torch.uint8, device="cuda")
        yield {"image": image, "label": torch.empty(2, size, size, dtype=torch.uint8, device="cuda")}


@pytest.mark.parametrize("is_taught", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_never_makes_the_host_wait(tmp_path, optimizer, is_taught):
    def work(worker):
        with fake_cuda(), cuda_autocast_works():
            move_to_fake_cuda(worker)
            if is_taught:
                with worker.device:
                    network = DMLCSR(worker.card.architecture).eval().requires_grad_(False)
                worker.teacher = TeacherNetwork(network, worker.card.preprocessing, 0.5)
            with Kernels() as kernels:
                for _ in range(2):
                    worker.step(micro_batches(worker))
            return kernels.launched

    settings = {"name": optimizer, "batch_size": 2, "accumulation_steps": MICRO_BATCHES}
    launched = as_only_worker(smoke("/data", tmp_path, optimizer=settings), work)
    assert (
        launched["convolution_backward"] and sum(launched[name] for name in launched if name.startswith("_fused")) == 2
    )
