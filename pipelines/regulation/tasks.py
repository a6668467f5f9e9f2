"""What the orchestrator has others do, as Ray tasks: it has no memory for weights, nor for what handles them.

The orchestrator imports this module, so torch is imported in the tasks only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from pipelines.models.weights_reference import WeightsReference
from pipelines.regulation.ledger import Ensemble, Soup
from pipelines.run import console

SOUP_CPUS = 1


@ray.remote(num_cpus=0)
def average(ensemble: WeightsReference, student: WeightsReference, cycle: int, prefix: str) -> WeightsReference:
    """Calls `weight_files.average`."""
    from pipelines.models import weight_files

    console.forward_logs_to_driver("average")
    return weight_files.average(ensemble, student, cycle, prefix)


@ray.remote(num_cpus=SOUP_CPUS)
def make_soup(settings: Mapping[str, Any], candidates: Sequence[Ensemble], cycle: int, prefix: str) -> Soup:
    """Calls `soups.make_soup`. The task waits until a CPU is free, and a GPU if its caller asks for one."""
    from pipelines.regulation import soups

    console.forward_logs_to_driver("soup")
    return soups.make_soup(settings, candidates, cycle, prefix)
