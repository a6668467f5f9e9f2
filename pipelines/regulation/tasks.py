"""Ray tasks started by the orchestrator, so that the actor itself never loads weights or torch.

The orchestrator imports this module. Therefore the functions import torch, and not the module.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from pipelines.models.weights_reference import WeightsReference
from pipelines.regulation.ledger import Ensemble, Soup
from pipelines.run import console

SOUP_CPUS = 1
"""CPUs of the task that makes a soup; it runs one thread."""


@ray.remote(num_cpus=0)
def average(ensemble: WeightsReference, student: WeightsReference, cycle: int, prefix: str) -> WeightsReference:
    """Calls `weight_files.average`."""
    from pipelines.models import weight_files

    console.forward_logs_to_driver("average")
    return weight_files.average(ensemble, student, cycle, prefix)


@ray.remote(num_cpus=SOUP_CPUS)
def make_soup(settings: Mapping[str, Any], candidates: Sequence[Ensemble], cycle: int, prefix: str) -> Soup:
    """Calls `soups.make_soup`. The task waits until a CPU is free, and also a GPU if its caller requests one."""
    from pipelines.regulation import soups

    console.forward_logs_to_driver("soup")
    return soups.make_soup(settings, candidates, cycle, prefix)
