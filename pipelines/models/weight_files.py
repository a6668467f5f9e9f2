"""Writes, reads and averages weights of training networks, as safetensors files on storage."""

import hashlib
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

from dmlcsr.regulation import update_ensemble
from pipelines import storage
from pipelines.errors import UserError
from pipelines.models.weights_reference import WeightsReference


def write_weights(prefix: str, state: Mapping[str, Tensor]) -> WeightsReference:
    """Writes a state dict to `<prefix>-<digest>.safetensors`, so that a file that a record names is never overwritten.

    Raises UserError if a value is not finite, because such weights must not teach.
    """
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{name} of {prefix} has values that are not finite; lower --optimizer.lr")
    data = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in state.items()})
    digest = hashlib.sha256(data).hexdigest()
    uri = f"{prefix}-{digest[:12]}.safetensors"
    storage.write_bytes(uri, data)
    return WeightsReference(uri=uri, sha256=digest)


def read_weights(weights: WeightsReference) -> dict[str, Tensor]:
    """Reads a file of weights. Raises UserError if it is missing or is not the file that was written."""
    data = storage.read_bytes(weights.uri)
    if hashlib.sha256(data).hexdigest() != weights.sha256:
        raise UserError(f"{weights.uri} is damaged: its digest differs from the one in the ledger")
    return safetensors.torch.load(data)


def average(ensemble: WeightsReference, student: WeightsReference, cycle: int, prefix: str) -> WeightsReference:
    """Writes the ensemble's weights W_n, the average of W_{n-1} and the student's w_n; runs in a Ray task.

    Equal inputs give the same file. Raises UserError if the two differ in architecture.
    """
    torch.set_num_threads(1)
    try:
        return write_weights(prefix, update_ensemble(read_weights(ensemble), read_weights(student), cycle))
    except ValueError as error:
        raise UserError(f"{student.uri} is not of the ensemble's architecture: {error}") from error
