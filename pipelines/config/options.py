"""Turns a command line into a configuration: defaults, then preset, then YAML file, then flags."""

import argparse
import difflib
import json
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipelines.config import plain_yaml
from pipelines.config.base import Config, Metavar
from pipelines.errors import UserError

ConfigT = TypeVar("ConfigT", bound=Config)
PRESETS = Path(__file__).parent / "presets"
RATE_HELP = (
    "speed of the whole command, from which the plan says its hours (default: that of the last epoch, if --out holds a "
    "run)"
)
"""The text of the one option that only `plan` has."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def leaves(config: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """Yields (dotted name, field, section help) of every value, depth first, in order of definition."""
    for name, info in config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from leaves(info.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, info, (config.__doc__ or "").strip() if prefix else ""


def build_parser(
    command: str, config: type[Config], with_presets: bool, is_plan: bool = False
) -> argparse.ArgumentParser:
    """Builds the parser of one command, or of its plan. Every value of `config` becomes a flag with its dotted name."""
    options = list(leaves(config))
    required = "".join(f"--{_dashed(name)} {metavar(info)} " for name, info, _ in options if info.is_required())
    parser = _Parser(
        prog=f"ray_job.py {command}",
        usage=f"ray_job.py {command} {required}[options]",
        description=config.__doc__,
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups = {title: parser.add_argument_group(title) for title in ("required", "options")}
    for name, info, section_help in options:
        title = "required" if info.is_required() else name.rpartition(".")[0] or "options"
        if title not in groups:
            groups[title] = parser.add_argument_group(title, section_help)
        _add(groups[title], name, info)
    _add_common(parser.add_argument_group("of every command"), with_presets)
    if is_plan:
        parser.add_argument_group("of plan").add_argument("--images-per-second", metavar="FLOAT", help=RATE_HELP)
    return parser


def _add(group: argparse._ArgumentGroup, name: str, info: FieldInfo) -> None:
    switch: dict[str, Any] = {"nargs": "?", "const": "true"} if info.annotation is bool else {}
    group.add_argument(f"--{_dashed(name)}", dest=name, metavar=metavar(info), help=_help(info), **switch)


def _add_common(group: argparse._ArgumentGroup, with_presets: bool) -> None:
    group.add_argument("--config", metavar="FILE", help="YAML file with the same dotted names; flags override it")
    if with_presets:
        group.add_argument("--preset", metavar="NAME", help=f"named set of values: {', '.join(preset_names())}")
    group.add_argument("--json", action="store_true", help="print the result as JSON on the last line")
    group.add_argument("--verbose", action="store_true", help="show everything that Ray's processes print")
    levels = ("debug", "info", "warning")
    text = f"lowest level of the log lines that are shown: {', '.join(levels)} (default: info)"
    group.add_argument("--log-level", metavar="LEVEL", choices=levels, help=text)
    group.add_argument("--print-config", action="store_true", help="print the resulting configuration as YAML and exit")
    group.add_argument("-h", "--help", action="help", help="print this text and exit")


def _parts(annotation: Any) -> Iterator[Any]:
    """Yields the parts of an annotation: the alternatives of a union, the marks of `Annotated`."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


def metavar(info: FieldInfo) -> str:
    """The placeholder of a value in `--help`: its `Metavar`, its choices in braces, or the name of its type."""
    parts = list(_parts(info.rebuild_annotation()))
    if marks := [part for part in parts if isinstance(part, Metavar)]:
        return marks[0]
    if found := choices(info):
        return "{" + ",".join(found) + "}"
    kinds = {bool: "{true,false}", int: "INT", float: "FLOAT"}
    return next((name for kind, name in kinds.items() if kind in parts), "TEXT")


def choices(info: FieldInfo) -> list[str]:
    """The values that an option allows; empty if any value of its type is allowed."""
    literals = [part for part in _parts(info.annotation) if typing.get_origin(part) is typing.Literal]
    return [str(option) for literal in literals for option in typing.get_args(literal)]


def _help(info: FieldInfo) -> str:
    text = info.description or ""
    shows_default = info.is_required() or "default:" in text
    return (text if shows_default else f"{text} (default: {plain(info.default)})").replace("%", "%%")


def plain(value: Any) -> str:
    """Formats a value as a user would write it on a command line."""
    if isinstance(value, dict):
        return ",".join(f"{key}={plain(item)}" for key, item in value.items())
    if isinstance(value, tuple):
        return ",".join(map(plain, value))
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def parse(
    command: str, config: type[ConfigT], argv: Sequence[str], with_presets: bool, is_plan: bool = False
) -> argparse.Namespace:
    """Parses flags of a command, or of its plan, into {dotted name: text}; `-` and `_` in names mean the same.

    Raises UserError for an unknown flag; the message names the nearest known one.
    """
    parser = build_parser(command, config, with_presets, is_plan)
    normalized = [_normalize(argument) for argument in argv]
    flags, unknown = parser.parse_known_args(normalized)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        raise UserError(f"{command}: unknown argument {unknown[0]!r}{nearest(unknown[0].split('=')[0], known)}")
    return flags


def _normalize(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return _dashed(name) + equals + value if name.startswith("--") else argument


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error sentence, `; did you mean '...'?`, or an empty string if no known name is similar."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def resolve(config: type[ConfigT], flags: argparse.Namespace) -> ConfigT:
    """The validated configuration. Raises UserError with the dotted name, the given value and the allowed ones."""
    return _validate(config, _layers(config, flags))


def resolved_yaml(config: type[ConfigT], flags: argparse.Namespace) -> str:
    """The YAML that `--print-config` prints. It leaves out required values that were not given."""
    layers = _layers(config, flags)
    missing = [name for name, info in config.model_fields.items() if info.is_required() and name not in layers]
    placeholders = {name: _placeholder(name, config.model_fields[name]) for name in missing}
    values = _validate(config, layers | placeholders).model_dump(mode="json")
    return plain_yaml.dump({k: v for k, v in values.items() if k not in missing})


def _placeholder(name: str, info: FieldInfo) -> str:
    return next(iter(choices(info)), "lapa" if name == "taxonomy" else "/")


def _layers(config: type[Config], flags: argparse.Namespace) -> dict[str, Any]:
    values: dict[str, Any] = {}
    given = vars(flags)
    if (preset := given.get("preset")) is not None:
        if preset not in preset_names():
            raise UserError(f"--preset: unknown preset {preset!r}; known are {', '.join(preset_names())}")
        _merge(values, load_yaml(PRESETS / f"{preset}.yaml"))
    if (file := given.get("config")) is not None:
        _merge(values, load_yaml(Path(file)))
    for name, info, _ in leaves(config):
        if name in given:
            _set(values, name.split("."), _value(given[name], info))
    return values


def _set(values: dict[str, Any], name: Sequence[str], value: Any) -> None:
    *sections, leaf = name
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise UserError(f"--config: {section} must be a mapping, not {values!r}")
    values[leaf] = value


def _is_text(annotation: Any) -> bool:
    """True if the type is text, or a tuple of texts, whose validator parses one text with commas."""
    return any(
        part is str or (typing.get_origin(part) is tuple and str in _parts(typing.get_args(part)[0]))
        for part in _parts(annotation)
    )


def _value(text: str, info: FieldInfo) -> Any:
    """Reads a flag's text as YAML; the value of a text field stays text."""
    if text in ("null", "none") and text not in choices(info):
        return None
    if _is_text(info.annotation):
        return text
    try:
        return plain_yaml.load(text)
    except ValueError:
        return text  # the validation then names the allowed values


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError if the file is missing, not YAML, or not a mapping."""
    try:
        content = plain_yaml.load(path.read_text())
    except OSError as error:
        raise UserError(f"--config: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--config: {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"--config: {path} must hold a mapping of names to values")
    return content


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _validate(config: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    try:
        return config.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_sentence(config, item) for item in error.errors())) from error


def _sentence(config: type[Config], item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = [leaf for leaf, _, _ in leaves(config)]
        return f"unknown key {name!r}{nearest(name, known)}"
    if item["type"] == "missing":
        return f"--{_dashed(name)} is required"
    message = item["msg"].removeprefix("Value error, ")
    where = f"--{_dashed(name)}: " if name else ""
    is_own_rule = item["type"] == "value_error" and isinstance(item["input"], dict)
    return f"{where}{message}" if is_own_rule else f"{where}{message} (got {_short(item['input'])})"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        return "a number that is too long to print"
    return text if len(text) <= 80 else f"{text[:80]}..."
