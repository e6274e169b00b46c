"""The command line of a command, derived from its options."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

from actors.options.pool_size import PoolSize
from actors.options.schema import Model, OptionField, Options, build, option_fields, sections
from actors.options.yaml_files import find_config, hint, read_values
from tangoflux.errors import ConfigError


@dataclass(frozen=True)
class Command:
    """A command as ``--help`` presents it.

    Attributes:
        program: how it is started, for example ``python jobs/crpo.py``.
        description, examples: printed before and after the options.
        configs: files that ``--config`` finds by name.
        default_config: returns the file to read if ``--config`` is missing, given the arguments by key; or None.
    """

    program: str
    description: str
    examples: str
    configs: Mapping[str, Path] = field(default_factory=dict[str, Path])
    default_config: Callable[[Mapping[str, Any]], Path | None] = lambda arguments: None


def load_options(model: type[Model], command: Command, argv: Sequence[str] | None) -> Model:
    """Reads a command's options: from the command line, then the file that ``--config`` names, then the defaults.

    Args:
        argv: the arguments; None means those of this process.

    Raises:
        ConfigError: an unknown option or key, or a value that is not allowed; one line that names it and the fix.
    """
    arguments, unknown = _parse(model, command, argv)
    _refuse_unknown(unknown, _flags(model))
    return _build(model, command, arguments)


def load_known_options(
    model: type[Model], command: Command, argv: Sequence[str] | None, other: type[Options]
) -> tuple[Model, list[str]]:
    """As `load_options`, for a command that passes the options of ``other`` on; returns their arguments, too."""
    arguments, rest = _parse(model, command, argv, config=False)
    flags = _flags(other)
    _refuse_unknown(
        [word for word in rest if word[:2] == "--" and word.split("=")[0] not in flags], _flags(model) + flags
    )
    return _build(model, command, arguments), rest


def _flags(model: type[Options]) -> list[str]:
    return ["--config", *(option.flag for option in option_fields(model))]


def _parse(
    model: type[Options], command: Command, argv: Sequence[str] | None, config: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """The arguments by key, and those that are unknown; ``config``: whether ``--config`` is known."""
    parser = _parser(model, command, config)
    namespace, unknown = parser.parse_known_intermixed_args(sys.argv[1:] if argv is None else argv)
    return vars(namespace), unknown


def _build(model: type[Model], command: Command, arguments: dict[str, Any]) -> Model:
    name = arguments.pop("--config", None)
    file = command.default_config(arguments) if name is None else find_config(name, command.configs)
    values = read_values(model, file) if file else {}
    flags = {option.key: option.flag for option in option_fields(model) if option.key in arguments}
    return build(model, values | arguments, {key: f"{key} in {file}" for key in values} | flags)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')}; see --help")


def _parser(model: type[Options], command: Command, config: bool) -> _Parser:
    positional = [_usage(option) for option in option_fields(model) if option.extra("positional")]
    parser = _Parser(
        prog=command.program,
        usage=" ".join([command.program, *positional, *["[--config NAME]"] * config, "[--option value ...]"]),
        description=command.description,
        epilog=command.examples,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {"": parser}
    if config:
        shipped = f", or one that comes with the project: {', '.join(command.configs)}" if command.configs else ""
        parser.add_argument("--config", dest="--config", metavar="NAME", help=f"a YAML file of options{shipped}")
    for name, section in sections(model).items():
        groups[name] = parser.add_argument_group(name, section.__doc__)
    for option in option_fields(model):
        how: dict[str, Any] = _how_to_split(option, bool(positional)) | {"help": option.help.replace("%", "%%")}
        if option.extra("positional"):
            parser.add_argument(option.key, **how)
        else:
            groups[option.section].add_argument(option.flag, dest=option.key, **how)
    return parser


def _usage(option: OptionField) -> str:
    if Ellipsis in get_args(option.type):
        return f"{option.flag} ..."
    return option.flag if option.field.is_required() else f"[{option.flag}]"


def _how_to_split(option: OptionField, has_positional: bool) -> dict[str, Any]:
    """Arguments for argparse, which only splits: all checks are the model's, for YAML and command line alike."""
    kinds = get_args(option.type)
    if option.extra("positional"):
        nargs = "+" if Ellipsis in kinds else None if option.field.is_required() else "?"
        return {"nargs": nargs, "metavar": option.flag}
    if option.type is bool and has_positional:
        return {"action": "store_true"}  # a value could not be told from a positional argument
    if option.type is bool:
        return {"nargs": "?", "const": True, "type": _as_bool, "metavar": "true"}
    if get_origin(option.type) is tuple:
        metavar = _metavar(kinds[0])
        return (
            {"nargs": "+", "metavar": (metavar, "...")}
            if Ellipsis in kinds
            else {"nargs": len(kinds), "metavar": metavar}
        )
    return {"metavar": _metavar(option.type)}


def _metavar(kind: Any) -> str:
    kind = kind.__origin__ if get_origin(kind) is Annotated else kind
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    return {int: "N", float: "X", Path: "PATH", PoolSize: "N|N:M"}.get(kind, "TEXT")


def _as_bool(text: str) -> object:
    return {"true": True, "false": False}.get(text.lower(), text)


def _refuse_unknown(arguments: Sequence[str], flags: Sequence[str]) -> None:
    if not arguments:
        return
    name = next((argument.split("=")[0] for argument in arguments if argument.startswith("-")), None)
    if name is None:
        raise ConfigError(f"unexpected argument {arguments[0]!r}; every value follows its --option")
    near = difflib.get_close_matches(name, flags, n=1)
    raise ConfigError(f"unknown option {name}{hint(near[0] if near else None)}")
