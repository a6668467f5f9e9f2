"""Weights of training networks as safetensors on storage, and their average."""

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
    """Commits a state dict to `<prefix>-<digest>.safetensors`: what a record names is never written over.

    Raises UserError where a value is not finite: it must teach nobody.
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
    """Raises UserError where the file is missing or is not the one that was committed."""
    data = storage.read_bytes(weights.uri)
    if hashlib.sha256(data).hexdigest() != weights.sha256:
        raise UserError(f"{weights.uri} is damaged: its digest is not the one in the ledger")
    return safetensors.torch.load(data)


def average(ensemble: WeightsReference, student: WeightsReference, cycle: int, prefix: str) -> WeightsReference:
    """W_n of W_{n-1} and w_n, as a task: the same inputs give the same file."""
    torch.set_num_threads(1)
    try:
        return write_weights(prefix, update_ensemble(read_weights(ensemble), read_weights(student), cycle))
    except ValueError as error:
        raise UserError(f"{student.uri} is not of the ensemble's architecture: {error}") from error
