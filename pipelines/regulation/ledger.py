"""The ledger of self-regulation: the students, averages and ensembles of each trial of a run.

Each record is a JSON file below `<run>/ledger/`. It is written atomically and never changed. If a step is repeated, it
gets the existing record back. Records name weights by URI and digest; the weights are safetensors files in the run.

A copy of all records of a trial, `<trial>/records.json`, is rewritten after each cycle, so that a reader of many trials
needs one request for each. It decides nothing: a record that it lacks is read by itself.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError, field_validator

from pipelines import storage
from pipelines.errors import UserError
from pipelines.models.weights_reference import WeightsReference
from pipelines.run.metric_names import VAL_MEAN_F1
from pipelines.run.paths import RunPaths
from pipelines.run.states import State

SOUP = "soup"
"""Name in the field `trial` of records that belong to the whole run."""
COPY = "records.json"
"""Name of the copy of the records of a trial: a JSON object of names and texts of the records."""
_COPIED = TypeAdapter(dict[str, str])


class LedgerRecord(BaseModel):
    """Base of all records. A record belongs to a trial, and most records to one of its cycles."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    version: Literal[1] = 1
    trial: str

    @property
    def name(self) -> str:
        """The record's path below the ledger."""
        return _name(type(self), self.trial, getattr(self, "cycle", None))


def _name(kind: type[LedgerRecord], trial: str, cycle: int | None) -> str:
    """`<trial>/student-003.json`, or `<trial>/end.json` for a kind that has one record per trial."""
    return f"{trial}/{_KIND_NAMES[kind]}{'' if cycle is None else f'-{cycle:03d}'}.json"


class Trial(LedgerRecord):
    """The begin of a trial: the network and the classes of all its students."""

    architecture: Mapping[str, Any]
    taxonomy: str
    num_cycles: NonNegativeInt

    @field_validator("architecture")
    @classmethod
    def _with_stem(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fills in the stem of runs that were begun when there was only one, so that they continue."""
        return {"stem": "deep", **value}


class Student(LedgerRecord):
    """The student at the end of a cycle. Cycle 0 is the initial phase, after which self-regulation starts."""

    cycle: NonNegativeInt
    weights: WeightsReference
    val_mean_f1: float


class Average(LedgerRecord):
    """The average W_n before its BatchNorm statistics are re-estimated."""

    cycle: PositiveInt
    weights: WeightsReference


class Ensemble(LedgerRecord):
    """W_n after re-estimation and validation. `coefficients` maps `<trial>/<cycle>` to the share of that student."""

    cycle: NonNegativeInt
    weights: WeightsReference
    val_mean_f1: float
    coefficients: Mapping[str, float]

    @property
    def source(self) -> str:
        """The name `<trial>/<cycle>` under which a soup lists this ensemble."""
        return f"{self.trial}/{self.cycle}"


class Candidates(LedgerRecord):
    """The ensembles that a soup may contain, best first. They are recorded so that a killed soup can be repeated."""

    cycle: PositiveInt
    ensembles: Sequence[tuple[str, int]]


class Soup(LedgerRecord):
    """A greedy average over ensembles of several trials. `members` names these ensembles as `<trial>/<cycle>`."""

    cycle: PositiveInt
    weights: WeightsReference
    val_mean_f1: float
    coefficients: Mapping[str, float]
    members: Sequence[str]


class TeacherChoice(LedgerRecord):
    """The teacher of a trial in a cycle: the soup of cycle `soup`, or, if null, its own previous ensemble."""

    cycle: PositiveInt
    soup: PositiveInt | None


class TrialEnd(LedgerRecord):
    """The end of a trial: it finished all its cycles or was stopped."""

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
"""Record classes by the first part of the file name."""
_KIND_NAMES = {kind: name for name, kind in _KINDS.items()}
RecordT = TypeVar("RecordT", bound=LedgerRecord)


class Ledger:
    """The records of one run, in memory and on storage."""

    def __init__(self, run: str, trial: str | None = None) -> None:
        """Reads all records of the run, or those of one trial and the soups.

        Raises UserError if a record is damaged or has another version.
        """
        self.uri = RunPaths(run).ledger
        self._trials: dict[str, dict[str, LedgerRecord]] = {}
        names = storage.list_names(self.uri) if trial is None else [trial, SOUP]
        for name, data in zip(names, storage.read_many([self._copy(name) for name in names]), strict=True):
            for record, text in _copied(self._copy(name), data).items() if isinstance(data, bytes) else ():
                self._keep(_parse(f"{self._copy(name)} ({record})", record, text.encode()))
        for name in names:
            if self.find(TrialEnd, name) is None:  # otherwise its copy is complete
                self._read_records(name)

    def _copy(self, trial: str) -> str:
        return storage.join(self.uri, trial, COPY)

    def _read_records(self, trial: str) -> None:
        """Reads the records of a trial that are not known yet."""
        known = {COPY, *(name.rpartition("/")[2] for name in self._trials.get(trial, ()))}
        names = [name for name in storage.list_names(storage.join(self.uri, trial)) if name not in known]
        uris = [storage.join(self.uri, trial, name) for name in names]
        for uri, data in zip(uris, storage.read_many(uris), strict=True):
            if isinstance(data, UserError):
                raise data
            self._keep(_parse(uri, uri, data))

    def _keep(self, record: LedgerRecord) -> None:
        self._trials.setdefault(record.trial, {})[record.name] = record

    def find(self, kind: type[RecordT], trial: str, cycle: int | None = None) -> RecordT | None:
        """The record of a trial, or None. `cycle` is required for kinds that have one record per cycle."""
        record = self._trials.get(trial, {}).get(_name(kind, trial, cycle))
        assert record is None or isinstance(record, kind)
        return record

    def write_once(self, record: RecordT) -> RecordT:
        """Writes the record and returns it. If a record of that name exists, returns that one and writes nothing."""
        known = self._trials.get(record.trial, {}).get(record.name)
        if known is None:
            storage.write_bytes(storage.join(self.uri, record.name), record.model_dump_json(indent=1).encode())
            self._keep(record)
            return record
        assert isinstance(known, type(record))
        return known

    def write_copy(self, trial: str) -> None:
        """Rewrites the copy of the records of a trial. Ignores errors of the storage, because nothing depends on it."""
        texts = {name: record.model_dump_json() for name, record in self._trials.get(trial, {}).copy().items()}
        with suppress(UserError):
            storage.write_bytes(self._copy(trial), json.dumps(texts).encode())

    def of(self, kind: type[RecordT], trial: str) -> list[RecordT]:
        """All records of one kind of a trial, sorted by cycle."""
        # Copies: another thread may add a record while this one looks through them.
        found = {name: one for name, one in self._trials.get(trial, {}).copy().items() if isinstance(one, kind)}
        return [found[name] for name in sorted(found)]

    def trials(self) -> list[Trial]:
        """All trials that have begun, sorted by name."""
        found = (self.find(Trial, name) for name in sorted(self._trials.copy()))
        return [trial for trial in found if trial is not None]

    def summary(self, with_lineage: bool = True) -> dict[str, Any]:
        """The JSON-able state and scores of each trial and soup, with the shares of the students in each average.

        The lineage of n cycles has about n^2 / 2 shares, which is most of the size. `with_lineage=False` omits it.
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
        """The teacher of a trial in each cycle: the share of each student, and the soup's number or None."""
        return {
            record.cycle: {"soup": record.soup, "coefficients": dict(self.taught_by(record).coefficients)}
            for record in self.of(TeacherChoice, trial)
        }

    def taught_by(self, teacher: TeacherChoice) -> Ensemble | Soup:
        """The ensemble or soup that a choice names."""
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


def _copied(uri: str, data: bytes) -> dict[str, str]:
    try:
        return _COPIED.validate_json(data)
    except ValidationError as error:
        raise UserError(f"{uri} is damaged; delete it, the records beside it are complete") from error


def _parse(uri: str, name: str, data: bytes) -> LedgerRecord:
    kind = _KINDS.get(name.rpartition("/")[2].partition("-")[0].removesuffix(".json"))
    if kind is None:
        raise UserError(f"{uri} is not a ledger record; move it away")
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
