"""What the orchestrator has others do, as Ray tasks: it has no memory for weights, nor for what handles them."""

from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from pipelines.errors import UserError
from pipelines.models.weights_reference import WeightsReference
from pipelines.regulation.ledger import Ensemble, Soup

SOUP_CPUS = 1


def answer(reference: Any) -> Any:
    """What a method answers; a UserError is raised as it was there."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise


def average_in_task(ensemble: WeightsReference, student: WeightsReference, cycle: int, prefix: str) -> WeightsReference:
    """W_n, made by a task elsewhere: the orchestrator has no memory for weights, nor for what handles them."""
    task: Any = ray.remote(num_cpus=0)(_average)
    weights: WeightsReference = answer(task.remote(ensemble, student, cycle, prefix))
    return weights


def _average(ensemble: WeightsReference, student: WeightsReference, cycle: int, prefix: str) -> WeightsReference:
    from pipelines.models import weight_files

    return weight_files.average(ensemble, student, cycle, prefix)


def make_soup_in_task(settings: Mapping[str, Any], candidates: Sequence[Ensemble], cycle: int, prefix: str) -> Soup:
    """The soup of these ensembles, made by a task that waits until a CPU, and a GPU if trials use them, is free."""
    gpus = float(settings["config"]["workers"]["use_gpu"])
    task: Any = ray.remote(num_cpus=SOUP_CPUS, num_gpus=gpus)(_make_soup)
    soup: Soup = answer(task.remote(settings, candidates, cycle, prefix))
    return soup


def _make_soup(settings: Mapping[str, Any], candidates: Sequence[Ensemble], cycle: int, prefix: str) -> Soup:
    from pipelines.regulation import soups

    return soups.make_soup(settings, candidates, cycle, prefix)
