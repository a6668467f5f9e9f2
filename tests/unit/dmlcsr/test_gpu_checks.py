"""Runs what `make test-gpu` runs, on the CPU and small, so that it works when somebody has a GPU."""

import subprocess
import sys

import pytest
import torch

from dmlcsr.model import DMLCSR
from tests.gpu.__main__ import all_checks
from tests.gpu.faces import Scale

# Below 64 pixels, oneDNN's gradient of a depthwise convolution in bf16 is wrong on maps of 1x1.
TINY = Scale(depth=18, width=0.125, size=64, batch_size=2, num_steps=2)
CHECKS = all_checks(TINY, TINY, torch.device("cpu"), num_faces=4, num_epochs=2)


@pytest.mark.parametrize("name", [name for name in CHECKS if "compiled" not in name])
def test_each_check_and_timing_runs_on_the_cpu(name) -> None:
    assert all(value >= 0 for value in CHECKS[name]().values())


def test_the_network_compiles_without_a_break() -> None:
    network = torch.compile(DMLCSR(TINY.card.architecture), backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert [task.dtype for task in network(torch.zeros(2, 3, 32, 32))] == 3 * [torch.bfloat16]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_the_checks_need_no_ray_and_say_that_there_is_no_card() -> None:
    code = "import sys; sys.modules['ray'] = None; from tests.gpu.__main__ import main; sys.argv = ['gpu']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("skipped: PyTorch finds no CUDA device")
