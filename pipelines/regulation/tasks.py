"""What the orchestrator has others do, as Ray tasks: it has no memory for weights, nor for what handles them.

The orchestrator imports this module, so torch is imported in the tasks only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from pipelines.models.weights_reference import WeightsReference
from pipelines.regulation.ledger import Ensemble, Soup

SOUP_CPUS = 1


@ray.remote(num_cpus=0)
def average(ensemble: WeightsReference, student: WeightsReference, cycle: int, prefix: str) -> WeightsReference:
    """`weight_files.average`."""
    from pipelines.models import weight_files

    return weight_files.average(ensemble, student, cycle, prefix)


@ray.remote(num_cpus=SOUP_CPUS)
def make_soup(settings: Mapping[str, Any], candidates: Sequence[Ensemble], cycle: int, prefix: str) -> Soup:
    """`soups.make_soup`; waits until a CPU is free, and the GPU that its caller asks for where trials use them."""
    from pipelines.regulation import soups

    return soups.make_soup(settings, candidates, cycle, prefix)
