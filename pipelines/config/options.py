"""From a command line to a configuration: defaults, then preset, then YAML file, then flags."""

import argparse
import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipelines.config import plain_yaml
from pipelines.config.base import Config
from pipelines.errors import UserError

ConfigT = TypeVar("ConfigT", bound=Config)
PRESETS = Path(__file__).parent / "presets"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def leaves(config: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """(dotted name, field, section help) of every value, depth first, in order of definition."""
    for name, info in config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from leaves(info.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, info, (config.__doc__ or "").strip() if prefix else ""


def build_parser(command: str, config: type[Config], with_presets: bool) -> argparse.ArgumentParser:
    """The parser of one command; every value of `config` is a flag of its dotted name."""
    parser = _Parser(
        prog=f"ray_job.py {command}",
        usage=f"ray_job.py {command} [options]",
        description=config.__doc__,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with the same dotted names")
    if with_presets:
        parser.add_argument("--preset", metavar="NAME", help=f"one of: {', '.join(preset_names())}")
    parser.add_argument("--json", action="store_true", help="last line on standard output: the result as JSON")
    parser.add_argument("--verbose", action="store_true", help="show all that Ray's processes print")
    parser.add_argument("--print-config", action="store_true", help="print the resolved YAML and do nothing")
    groups: dict[str, Any] = {"": parser}
    for name, info, section_help in leaves(config):
        section = name.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section, section_help)
        is_switch = info.annotation is bool
        groups[section].add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            metavar=None if is_switch else _metavar(info),
            help=_help(info),
            **({"nargs": "?", "const": "true"} if is_switch else {}),
        )
    return parser


def _metavar(info: FieldInfo) -> str:
    if found := choices(info):
        return "{" + ",".join(found) + "}"
    for kind, name in ((bool, "BOOL"), (int, "INT"), (float, "FLOAT")):
        if kind in (info.annotation, *typing.get_args(info.annotation)):
            return name
    return "TEXT"


def choices(info: FieldInfo) -> list[str]:
    """What an option may be, where that is a list."""
    return [str(option) for option in _literals(info.annotation)]


def _literals(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(option for part in typing.get_args(annotation) for option in _literals(part))
    return ()


def _help(info: FieldInfo) -> str:
    text = (info.description or "").replace("%", "%%")
    return f"{text} (required)" if info.is_required() else f"{text} (default: {_plain(info.default)})"


def _plain(value: Any) -> str:
    return "null" if value is None else str(value)


def parse(command: str, config: type[ConfigT], argv: Sequence[str], with_presets: bool) -> argparse.Namespace:
    """Flags as given, names normalised. Raises UserError, naming the nearest known flag, for unknown ones."""
    parser = build_parser(command, config, with_presets)
    normalised = [_normalise(argument) for argument in argv]
    flags, unknown = parser.parse_known_args(normalised)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        raise UserError(f"{command}: unknown argument {unknown[0]!r}{_nearest(unknown[0].split('=')[0], known)}")
    return flags


def _normalise(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def resolve(config: type[ConfigT], flags: argparse.Namespace) -> ConfigT:
    """The validated configuration. Raises UserError with the dotted name, what was got and what is allowed."""
    return _validate(config, _layers(config, flags))


def resolved_yaml(config: type[ConfigT], flags: argparse.Namespace) -> str:
    """What `--print-config` prints. Required values that were not given are left out."""
    layers = _layers(config, flags)
    missing = [name for name, info in config.model_fields.items() if info.is_required() and name not in layers]
    placeholders = {name: _placeholder(name, config.model_fields[name]) for name in missing}
    values = _validate(config, layers | placeholders).model_dump(mode="json")
    return plain_yaml.dump({k: v for k, v in values.items() if k not in missing})


def _placeholder(name: str, info: FieldInfo) -> str:
    return next(iter(_literals(info.annotation)), "lapa" if name == "taxonomy" else "/")


def _layers(config: type[Config], flags: argparse.Namespace) -> dict[str, Any]:
    fields = {name: info for name, info, _ in leaves(config)}
    values: dict[str, Any] = {}
    given = dict(vars(flags))
    for switch in ("json", "print_config", "verbose"):
        given.pop(switch, None)
    preset, file = given.pop("preset", None), given.pop("config", None)
    if preset is not None:
        if preset not in preset_names():
            raise UserError(f"--preset: no preset {preset!r}; there are {', '.join(preset_names())}")
        _merge(values, load_yaml(PRESETS / f"{preset}.yaml"))
    if file is not None:
        _merge(values, load_yaml(Path(file)))
    for name, text in given.items():
        *sections, leaf = name.split(".")
        target = values
        for section in sections:
            if target.get(section) is None:
                target[section] = {}
            target = target[section]
            if not isinstance(target, dict):
                raise UserError(f"--config: {'.'.join(sections)} must be a mapping, not {target!r}")
        target[leaf] = _value(text, fields[name])
    return values


def _value(text: str, info: FieldInfo) -> Any:
    """A flag's text as YAML would read it, but where the field is text it stays text."""
    if text in ("null", "none"):
        return None
    if _is_text(info.annotation):
        return text
    try:
        return plain_yaml.load(text)
    except ValueError:
        return text  # the validation will say what was expected


def _is_text(annotation: Any) -> bool:
    """Whether `str` stands anywhere in the annotation but in a literal's values."""
    return annotation is str or any(_is_text(part) for part in typing.get_args(annotation))


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError where it is missing, not YAML, or not a mapping."""
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
        return f"unknown key {name!r}{_nearest(name, known)}"
    if item["type"] == "missing":
        return f"--{name.replace('_', '-')} is required"
    return f"--{name.replace('_', '-')}: {item['msg']} (got {_short(item['input'])})"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        return "a number that is too long to print"
    return text if len(text) <= 80 else f"{text[:80]}..."
