"""`phases.json`: what a run has been doing since when, for people who look at it from outside.

Its writers take turns: the controller of the training before the workers begin, rank 0 as long as they work, the driver
after them. The times are those of their clocks: they are shown, and nothing is decided by them.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipelines import storage
from pipelines.errors import UserError
from pipelines.run.paths import RunPaths

MAX_PHASES = 1000
"""The last ones are kept."""
Kind = Literal[
    "waiting for workers", "waiting for the first batch", "training", "averaging", "re-estimating BatchNorm",
    "validating", "exporting",
]  # fmt: skip


class Phase(NamedTuple):
    """What begins, in which cycle (0: the initial phase; None: a run without cycles, or before), and the Unix time."""

    kind: Kind
    cycle: int | None
    began: float

    @property
    def text(self) -> str:
        if self.cycle is None:
            return self.kind
        return f"{f'cycle {self.cycle}' if self.cycle else 'initial phase'}, {self.kind}"


_PHASES = TypeAdapter(list[Phase], config=ConfigDict(strict=True))


def enter(out: str, kind: Kind, cycle: int | None = None) -> None:
    """Notes that a phase begins, unless it is the present one. Storage that cannot take it stops no training."""
    with suppress(UserError):
        phases = read(out)
        if not phases or phases[-1][:2] != (kind, cycle):
            phases = [*phases, Phase(kind, cycle, time.time())][-MAX_PHASES:]
            storage.write_json(RunPaths(out).phases, {"phases": [phase._asdict() for phase in phases]})


def read(out: str) -> Sequence[Phase]:
    """All phases, the present one last; empty where there are none, or what is there is damaged."""
    uri = RunPaths(out).phases
    if not storage.exists(uri):
        return []
    try:
        return _PHASES.validate_python(storage.read_json(uri).get("phases"))
    except (ValidationError, UserError):
        return []


def ago(began: float) -> float:
    """Seconds since then by this machine's clock, which may differ from the one that was looked at."""
    return max(0.0, time.time() - began)
