"""Runs all checks and timings on the first GPU; prints one JSON line each. Exits with 1 if a check fails.

    python -m tests.gpu [--quick]

Takes a few minutes on one card with 24 GB. Without a card it says so and does nothing.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable

import torch

from tests.gpu import checks, speed
from tests.gpu.faces import Scale

SMALL = Scale(depth=18, width=0.25, size=128, batch_size=8, num_steps=10)
PAPER = Scale(depth=101, width=1.0, size=473, batch_size=7, num_steps=10)
Check = Callable[[], dict[str, float] | dict[str, int]]


def all_checks(
    small: Scale, large: Scale, device: torch.device, *, num_faces: int, num_epochs: int
) -> dict[str, Check]:
    """The checks and timings by their names, cheap ones first. Compiling is the last, since it takes longest."""
    return {
        "network": lambda: checks.network_parity(small, device),
        "loss": lambda: checks.loss_parity(large, device),
        "predictor": lambda: checks.predictor_parity(small, device),
        "no host waits": lambda: checks.no_host_waits(small, device),
        "training": lambda: checks.training_parity(small, device, num_faces, num_epochs),
        "speed": lambda: speed.training_speed(large, device, compiled=False),
        "speed of inference": lambda: speed.inference_speed(large, device),
        "speed, compiled": lambda: speed.training_speed(large, device, compiled=True),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without the training and the compiled network")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: PyTorch finds no CUDA device here; run this on a machine with one, with a CUDA build of torch")
        return 0
    print(json.dumps({"card": torch.cuda.get_device_name(0), "torch": torch.__version__}), flush=True)
    chosen = all_checks(SMALL, PAPER, torch.device("cuda"), num_faces=240, num_epochs=8)
    if arguments.quick:
        del chosen["training"], chosen["speed, compiled"]
    failed = []
    for name, check in chosen.items():
        begin = time.perf_counter()
        try:
            result: object = check()
        except Exception as error:  # the others still say something
            traceback.print_exc()
            result = f"failed: {error}"
            failed.append(name)
        print(json.dumps({"check": name, "result": result, "seconds": time.perf_counter() - begin}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
