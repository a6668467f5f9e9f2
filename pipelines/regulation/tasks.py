"""Ray tasks started by the orchestrator, so that the actor itself never loads weights or torch.

The orchestrator imports this module. Therefore the functions import torch, and not the module.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.models.weights_reference import WeightsReference
from pipelines.regulation.ledger import Ensemble, Soup
from pipelines.run import console

HEAD_RESOURCE = "node:__internal_head__"
"""Resource that Ray gives to the head only."""
SOUP_CPUS = 1
"""CPUs of the task that makes a soup; it runs one thread."""


def away_from_head(nodes: Sequence[Mapping[str, Any]]) -> NodeAffinitySchedulingStrategy | str:
    """The placement of a task without CPUs that needs memory: any of `ray.nodes()` but the head, if there is one.

    An average holds two models, 1.5 GB for the published size, and four may be made at once. Ray would also place it on
    a head without CPUs, which is small and holds the drivers. The choice is soft: if the node has gone, any other will
    do.
    """
    found = [node["NodeID"] for node in nodes if node["Alive"] and HEAD_RESOURCE not in node["Resources"]]
    return NodeAffinitySchedulingStrategy(random.choice(found), soft=True) if found else "DEFAULT"


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
