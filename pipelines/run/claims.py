"""`claim.json`: the command that an output belongs to, with its configuration and inputs.

Every command that writes a folder claims it in the same way. It checks that the folder is free or its own, takes
ownership (see `lock`), checks again, and only then writes. A claim is created once. An interrupted command continues
with the configuration stored there, even if the defaults of the present release differ.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines import storage
from pipelines.config.base import Config
from pipelines.config.options import plain
from pipelines.errors import OutputTakenError, UserError
from pipelines.run import lock, release_0_1, result_file
from pipelines.run.paths import RunPaths

FORMAT_VERSION: Literal[2] = 2
ConfigT = TypeVar("ConfigT", bound=Config)


class Claim(BaseModel):
    """The command that makes or made an output, its `config` without `out`, and its `inputs`: digests by option."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format_version: Literal[1, 2] = FORMAT_VERSION
    command: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str] = {}


class Claimed(NamedTuple, Generic[ConfigT]):
    """The configuration that the command uses; `resumed` is True if it continues an earlier attempt."""

    config: ConfigT
    resumed: bool


def read_claim(out: str) -> Claim | None:
    """The claim of an output, None if there is none. Raises OutputTakenError if it cannot be read."""
    uri = RunPaths(out).claim
    data = storage.find_bytes(uri)
    if data is None:
        values = release_0_1.claim_values(out)
        return None if values is None else Claim.model_validate(values)
    try:
        content = storage.parse_json(uri, data)
    except UserError as error:
        raise OutputTakenError(f"{error}; choose another --out") from error
    if (version := content.get("format_version")) != FORMAT_VERSION:
        raise OutputTakenError(f"{uri} has format version {version!r}; this release reads {FORMAT_VERSION}")
    try:
        return Claim.model_validate(content)
    except ValidationError as error:
        raise OutputTakenError(f"{uri} is damaged at {error.errors()[0]['loc']}; choose another --out") from error


def find_claim(
    command: str,
    config: ConfigT,
    out: str,
    inputs: Mapping[str, str] | None = None,
    may_differ: Sequence[str] = (),
) -> ConfigT | None:
    """The configuration with which `command` continues at `out`; None if `out` is free. Writes nothing.

    The stored configuration is validated by the present model, whose defaults fill in missing values. Only values that
    the user set in `config` (not its defaults) are compared with the stored ones. If they belong to the sections or
    fields in `may_differ`, they replace the stored ones instead. Raises OutputTakenError if `out` holds something else,
    or if a value that the user set or an input differs.
    """
    claim = _claim_of(command, out)
    if claim is None:
        return None
    stored = _stored_config(config, claim, out)
    _compare(config, stored, out, may_differ)
    for name, digest in (inputs or {}).items():
        if claim.inputs.get(name) != digest:
            raise OutputTakenError(
                f"{out} was made from another --{name} than the present content of {getattr(config, name)}; "
                "choose another --out"
            )
    if claim.format_version != FORMAT_VERSION and result_file.finished_result(out, command) is None:
        raise OutputTakenError(
            f"{out} holds an unfinished output of release 0.1 (format version {claim.format_version}), and this "
            f"release only continues outputs of format version {FORMAT_VERSION}; choose another --out"
        )
    return _with_changes(stored, config, may_differ)


def _claim_of(command: str, out: str) -> Claim | None:
    """The claim of `command` on `out`, None if `out` is free. Raises OutputTakenError if it holds something else."""
    claim = read_claim(out)
    if claim is None and not storage.is_empty(out, ignored=lock.PREFIX):
        raise OutputTakenError(f"{out} is not empty and holds no output of `{command}`; choose another --out")
    if claim is not None and claim.command != command:
        raise OutputTakenError(f"{out} holds the output of `{claim.command}`; choose another --out")
    return claim


@contextmanager
def claim_output(
    command: str,
    config: ConfigT,
    out: str,
    inputs: Mapping[str, str] | None = None,
    may_differ: Sequence[str] = (),
) -> Iterator[Claimed[ConfigT]]:
    """Claims `out` for this command and owns it during a `with` block. Raises the errors of `find_claim`.

    Also raises OutputTakenError if another live driver owns `out`. In this case nothing was written.
    """
    find_claim(command, config, out, inputs, may_differ)
    with lock.ownership(out):
        found = find_claim(command, config, out, inputs, may_differ)
        if found is None:
            write_claim(command, config, out, inputs)
        result_file.mark_unfinished(command, out)
        yield Claimed(config if found is None else found, found is not None)


@contextmanager
def claim_anew(command: str, config: Config, out: str) -> Iterator[None]:
    """Owns `out` during a `with` block, for a command that always starts anew and replaces its earlier output."""
    _claim_of(command, out)
    with lock.ownership(out):
        _claim_of(command, out)
        write_claim(command, config, out)
        result_file.mark_unfinished(command, out)
        yield


def write_claim(command: str, config: Config, out: str, inputs: Mapping[str, str] | None = None) -> None:
    """Writes the claim. The caller must own `out`."""
    values = config.model_dump(mode="json", exclude={"out"})
    claim = Claim(command=command, config=values, inputs=inputs or {})
    storage.write_json(RunPaths(out).claim, claim.model_dump(mode="json"))


def _stored_config(config: ConfigT, claim: Claim, out: str) -> ConfigT:
    location = {"out": out} if "out" in type(config).model_fields else {}
    try:
        return type(config).model_validate({**claim.config, **location})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise OutputTakenError(
            f"{out} was begun with a configuration that this release cannot read ({name}: {first['msg']}); "
            "choose another --out"
        ) from error


def _given(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of every value that the user set, in the order of the fields."""
    for name in type(config).model_fields:
        if name not in config.model_fields_set:
            continue
        value = getattr(config, name)
        if isinstance(value, Config):
            yield from _given(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _value(config: Config, dotted: str) -> Any:
    value: Any = config
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def _compare(config: Config, stored: Config, out: str, may_differ: Sequence[str]) -> None:
    for name, value in _given(config):
        if name == "out" or name.partition(".")[0] in may_differ:
            continue
        if (earlier := _value(stored, name)) != value:
            raise OutputTakenError(
                f"{out} was begun with {name} = {plain(earlier)}, not {plain(value)}; choose another --out, or "
                "repeat the original command"
            )


def _with_changes(stored: ConfigT, config: ConfigT, may_differ: Sequence[str]) -> ConfigT:
    """The stored configuration with the values that the user set in the sections and fields `may_differ`."""
    values = stored.model_dump(mode="json")
    for name, value in _given(config):
        *sections, leaf = name.split(".")
        if name.partition(".")[0] in may_differ:
            target = values
            for section in sections:
                target = target[section]
            target[leaf] = value
    return type(stored).model_validate(values)
