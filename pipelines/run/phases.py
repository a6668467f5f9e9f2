"""`phases.json`: the phases of a run and when each began, shown by `status`.

Only one process writes at a time: first the controller of the training, then rank 0 while the workers run, at last the
driver. Each writes times of its own clock. They are only displayed; no decision depends on them.
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
"""Only the last phases, up to this number, are kept, so that the file stays small."""
Kind = Literal[
    "waiting for workers", "waiting for the first batch", "training", "averaging", "re-estimating BatchNorm",
    "validating", "exporting",
]  # fmt: skip


class Phase(NamedTuple):
    """A phase of a run, its cycle (0: initial phase, None: before or without cycles) and its start as Unix time."""

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
    """Records that a phase begins, unless it is the present one. Ignores errors of the storage, so training goes on."""
    with suppress(UserError):
        phases = read(out)
        if not phases or phases[-1][:2] != (kind, cycle):
            phases = [*phases, Phase(kind, cycle, time.time())][-MAX_PHASES:]
            storage.write_json(RunPaths(out).phases, {"phases": [phase._asdict() for phase in phases]})


def read(out: str) -> Sequence[Phase]:
    """All phases, the present one last. Empty if there is no `phases.json` or if it is damaged."""
    uri = RunPaths(out).phases
    data = storage.find_bytes(uri)
    if data is None:
        return []
    try:
        return _PHASES.validate_python(storage.parse_json(uri, data).get("phases"))
    except (ValidationError, UserError):
        return []


def ago(began: float) -> float:
    """Seconds since `began` by the clock of this machine. The clock that measured `began` may differ."""
    return max(0.0, time.time() - began)
