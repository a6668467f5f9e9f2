"""Refers to a file of weights by URI and digest, without torch, so that the orchestrator can use it."""

from pydantic import BaseModel, ConfigDict


class WeightsReference(BaseModel):
    """The URI and sha256 of a safetensors file with the weights of a training network."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    uri: str
    sha256: str
