"""What the orchestrator has others do, as Ray tasks: it has no memory for weights, nor for what handles them."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from pipelines.errors import UserError
from pipelines.models.weights_reference import WeightsReference
from pipelines.regulation.ledger import Ensemble, Soup
from pipelines.run import console
from pipelines.run.waiting import waiting

SOUP_CPUS = 1


def answer(reference: Any, what: str = "an answer", level: int = logging.DEBUG) -> Any:
    """What a method answers; a UserError is raised as it was there. The wait for `what` is told: see `waiting`."""
    try:
        with waiting(what, "no limit; Ray repeats the call if its process dies", level):
            return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise


def average_in_task(ensemble: WeightsReference, student: WeightsReference, cycle: int, prefix: str) -> WeightsReference:
    """W_n, made by a task elsewhere: the orchestrator has no memory for weights, nor for what handles them."""
    task: Any = ray.remote(num_cpus=0)(_average)
    weights: WeightsReference = answer(
        task.remote(ensemble, student, cycle, prefix), f"the task that averages the weights of cycle {cycle}"
    )
    return weights


def _average(ensemble: WeightsReference, student: WeightsReference, cycle: int, prefix: str) -> WeightsReference:
    from pipelines.models import weight_files

    console.forward_logs_to_driver("average")
    return weight_files.average(ensemble, student, cycle, prefix)


def make_soup_in_task(settings: Mapping[str, Any], candidates: Sequence[Ensemble], cycle: int, prefix: str) -> Soup:
    """The soup of these ensembles, made by a task that waits until a CPU, and a GPU if trials use them, is free."""
    gpus = float(settings["config"]["workers"]["use_gpu"])
    task: Any = ray.remote(num_cpus=SOUP_CPUS, num_gpus=gpus)(_make_soup)
    soup: Soup = answer(
        task.remote(settings, candidates, cycle, prefix),
        f"a free CPU{' and GPU' if gpus else ''}, and the task that makes the soup of cycle {cycle}",
        logging.INFO,
    )
    return soup


def _make_soup(settings: Mapping[str, Any], candidates: Sequence[Ensemble], cycle: int, prefix: str) -> Soup:
    from pipelines.regulation import soups

    console.forward_logs_to_driver("soup")
    return soups.make_soup(settings, candidates, cycle, prefix)
