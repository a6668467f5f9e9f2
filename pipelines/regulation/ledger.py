"""The ledger of self-regulation: what each trial of a run has reported, averaged and published.

One JSON file for each record below `<run>/ledger/`, committed atomically and never changed: a record that exists is
the answer to every repetition of what made it. Weights are named by URI and digest and lie beside, as safetensors.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from pipelines import storage
from pipelines.errors import UserError
from pipelines.models.weights_reference import WeightsReference
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.paths import RunPaths
from pipelines.run.states import State

SOUP = "soup"
"""Stands for the trial in the records that are of the run as a whole."""


class LedgerRecord(BaseModel):
    """Base of all records: of a trial, and mostly of one of its cycles."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    version: Literal[1] = 1
    trial: str

    @property
    def name(self) -> str:
        """Where the record lies below the ledger."""
        return _name(type(self), self.trial, getattr(self, "cycle", None))


def _name(kind: type[LedgerRecord], trial: str, cycle: int | None) -> str:
    """`<trial>/student-003.json`, or `<trial>/end.json` for what a trial has one of."""
    return f"{trial}/{_KIND_NAMES[kind]}{'' if cycle is None else f'-{cycle:03d}'}.json"


class Trial(LedgerRecord):
    """A trial begins: all its students have this network and these classes."""

    architecture: Mapping[str, Any]
    taxonomy: str
    num_cycles: NonNegativeInt


class Student(LedgerRecord):
    """The student at the end of a cycle; the one of cycle 0 is the one with which self-regulation starts."""

    cycle: NonNegativeInt
    weights: WeightsReference
    val_mean_f1: float


class Average(LedgerRecord):
    """W_n as averaged; its BatchNorm statistics are not re-estimated yet."""

    cycle: PositiveInt
    weights: WeightsReference


class Ensemble(LedgerRecord):
    """W_n after re-estimation and validation; `coefficients`: the share of each student, by `<trial>/<cycle>`."""

    cycle: NonNegativeInt
    weights: WeightsReference
    val_mean_f1: float
    coefficients: Mapping[str, float]

    @property
    def source(self) -> str:
        """How it is named as a part of something else."""
        return f"{self.trial}/{self.cycle}"


class Candidates(LedgerRecord):
    """The ensembles that a soup is tried of, best first; fixed, so that it can be made again after a kill."""

    cycle: PositiveInt
    ensembles: Sequence[tuple[str, int]]


class Soup(LedgerRecord):
    """A greedy average over ensembles of several trials; `members` are theirs, by `<trial>/<cycle>`."""

    cycle: PositiveInt
    weights: WeightsReference
    val_mean_f1: float
    coefficients: Mapping[str, float]
    members: Sequence[str]


class TeacherChoice(LedgerRecord):
    """Who teaches a trial in a cycle: the soup of that number, or its own ensemble of the cycle before (null)."""

    cycle: PositiveInt
    soup: PositiveInt | None


class TrialEnd(LedgerRecord):
    """A trial is over: it finished all its cycles, or was stopped."""

    state: Literal[State.FINISHED, State.STOPPED]


_KINDS: Mapping[str, type[LedgerRecord]] = {
    "trial": Trial,
    "student": Student,
    "average": Average,
    "ensemble": Ensemble,
    "candidates": Candidates,
    "soup": Soup,
    "teacher": TeacherChoice,
    "end": TrialEnd,
}
"""The kinds of records by the first part of their file's name."""
_KIND_NAMES = {kind: name for name, kind in _KINDS.items()}
RecordT = TypeVar("RecordT", bound=LedgerRecord)


class Ledger:
    """All records of one run, in memory and on storage."""

    def __init__(self, run: str) -> None:
        """Reads what there is. Raises UserError where a record is damaged or of another version."""
        self.uri = RunPaths(run).ledger
        self._trials: dict[str, dict[str, LedgerRecord]] = {}
        uris = [] if storage.is_empty(self.uri) else storage.list_files(self.uri)
        uris = [uri for uri in uris if not uri.rpartition("/")[2].startswith(".")]  # what a kill left of a write
        for uri, data in zip(uris, storage.read_many(uris), strict=True):
            if isinstance(data, UserError):
                raise data
            self._keep(_parse(uri, data))

    def _keep(self, record: LedgerRecord) -> None:
        self._trials.setdefault(record.trial, {})[record.name] = record

    def find(self, kind: type[RecordT], trial: str, cycle: int | None = None) -> RecordT | None:
        """The record of a trial, of one cycle where the kind has them; None where there is none."""
        record = self._trials.get(trial, {}).get(_name(kind, trial, cycle))
        assert record is None or isinstance(record, kind)
        return record

    def write_once(self, record: RecordT) -> RecordT:
        """Writes the record, unless there is one of its name already: that one is returned, and remains."""
        known = self._trials.get(record.trial, {}).get(record.name)
        if known is None:
            storage.write_bytes(storage.join(self.uri, record.name), record.model_dump_json(indent=1).encode())
            self._keep(record)
            return record
        assert isinstance(known, type(record))
        return known

    def of(self, kind: type[RecordT], trial: str) -> list[RecordT]:
        """All records of a kind of one trial, by cycle."""
        found = {name: record for name, record in self._trials.get(trial, {}).items() if isinstance(record, kind)}
        return [found[name] for name in sorted(found)]

    def trials(self) -> list[Trial]:
        """All trials that were begun, by name."""
        found = (self.find(Trial, name) for name in sorted(self._trials))
        return [trial for trial in found if trial is not None]

    def summary(self, with_lineage: bool = True) -> dict[str, Any]:
        """Where each trial stands, and what went into its averages; JSON-able.

        The lineage of n cycles has about n^2 / 2 shares: it is most of the whole.
        """
        soups = {
            soup.cycle: {
                VAL_MEAN_F1: soup.val_mean_f1,
                "members": list(soup.members),
                "coefficients": dict(soup.coefficients) if with_lineage else {},
            }
            for soup in self.of(Soup, SOUP)
        }
        return {"trials": {trial.trial: self._summary(trial, with_lineage) for trial in self.trials()}, "soups": soups}

    def teachers(self, trial: str) -> dict[int, dict[str, Any]]:
        """Who taught a trial in which cycle: the share of each student, and the number of the soup if it was one."""
        return {
            record.cycle: {"soup": record.soup, "coefficients": dict(self.taught_by(record).coefficients)}
            for record in self.of(TeacherChoice, trial)
        }

    def taught_by(self, teacher: TeacherChoice) -> Ensemble | Soup:
        """The teacher itself."""
        if teacher.soup is not None:
            soup = self.find(Soup, SOUP, teacher.soup)
            assert soup is not None
            return soup
        ensemble = self.find(Ensemble, teacher.trial, teacher.cycle - 1)
        assert ensemble is not None
        return ensemble

    def _summary(self, trial: Trial, with_lineage: bool) -> dict[str, Any]:
        end, ensembles = self.find(TrialEnd, trial.trial), self.of(Ensemble, trial.trial)
        return {
            "state": State(end.state) if end else State.UNFINISHED,
            "num_cycles": trial.num_cycles,
            "students": {record.cycle: record.val_mean_f1 for record in self.of(Student, trial.trial)},
            "ensembles": {record.cycle: record.val_mean_f1 for record in ensembles},
            "lineage": {record.cycle: dict(record.coefficients) for record in ensembles if with_lineage},
            "teachers": {record.cycle: record.soup for record in self.of(TeacherChoice, trial.trial)},
        }


def _parse(uri: str, data: bytes) -> LedgerRecord:
    kind = _KINDS.get(uri.rpartition("/")[2].partition("-")[0].removesuffix(".json"))
    if kind is None:
        raise UserError(f"{uri} is no record of a ledger; move it away")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("version",):
            raise UserError(f"{uri} has version {first['input']!r}; this program reads 1") from error
        raise UserError(f"{uri} is damaged at {first['loc']}: {first['msg']}") from error


def blend_shares(earlier: Mapping[str, float], added: Mapping[str, float], n: int) -> dict[str, float]:
    """Coefficients of n/(n+1) * earlier + 1/(n+1) * added."""
    return {name: (n * earlier.get(name, 0.0) + added.get(name, 0.0)) / (n + 1) for name in {**earlier, **added}}
