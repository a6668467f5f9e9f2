"""Names a file of weights by URI and digest; needs no torch, so that the orchestrator can hold it."""

from pydantic import BaseModel, ConfigDict


class WeightsReference(BaseModel):
    """A safetensors file of a training network."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    uri: str
    sha256: str
