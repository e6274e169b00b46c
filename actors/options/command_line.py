"""The command line of a job, made from its options."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from actors.options.schema import Leaf, Model, Options, build, leaves, sections
from actors.options.yaml_files import find_config, hint, read_values
from tangoflux.errors import ConfigError


def load_options(
    model: type[Model],
    argv: Sequence[str] | None,
    *,
    program: str,
    description: str,
    examples: str,
    shipped: Mapping[str, Path] | None = None,
    file_without_config: Callable[[Mapping[str, Any]], Path | None] = lambda arguments: None,
) -> Model:
    """Reads a job's options: from the command line, else from the file that ``--config`` names, else the defaults.

    Args:
        argv: the arguments; None means those of this process.
        program, description, examples: for ``--help``, which prints and exits.
        shipped: the configs that ``--config`` finds by name, where the job has such.
        file_without_config: names the file for arguments (by path) without ``--config``, where there is one.

    Raises:
        ConfigError: an unknown option or key, or a value that is not allowed; one line that names it and the fix.
    """
    known = {leaf.path: leaf for leaf in leaves(model)}
    parser = _parser(model, program, description, examples, shipped or {})
    given, unknown = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    _refuse_unknown(unknown, ["--config", *(leaf.flag for leaf in known.values())])
    arguments: dict[str, Any] = vars(given)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    name = arguments.pop("--config", None)
    file = find_config(name, shipped or {}) if name is not None else file_without_config(arguments)
    if file is not None:
        values = read_values(model, file)
        origins = {path: f"{path} in {file}" for path in values}
    for path, value in arguments.items():
        values[path] = None if value == "none" and known[path].is_optional else value
        origins[path] = known[path].flag
    return build(model, values, origins)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')}; see --help")


def _parser(
    model: type[Options], program: str, description: str, examples: str, shipped: Mapping[str, Path]
) -> _Parser:
    parser = _Parser(
        prog=program,
        usage=f"{program} [--config NAME] [--option value ...]",
        description=description,
        epilog=examples,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    groups = {"run": parser.add_argument_group("run")}
    text = "a YAML file of options"
    if shipped:
        text = f"{text}, or one that comes with the project: {', '.join(shipped)}"
    groups["run"].add_argument("--config", dest="--config", metavar="NAME", help=text)
    for name, section in sections(model).items():
        groups[name] = parser.add_argument_group(name, section.__doc__)
    for leaf in leaves(model):
        groups[leaf.section].add_argument(leaf.flag, dest=leaf.path, **_how_to_split(leaf))
    return parser


def _how_to_split(leaf: Leaf) -> dict[str, Any]:
    """What argparse is told of a leaf. It only splits: all checks are the model's, for YAML and arguments alike."""
    text = leaf.help.replace("%", "%%")
    if leaf.type is bool:
        return {"nargs": "?", "const": True, "type": _as_bool, "metavar": "true", "help": text}
    if get_origin(leaf.type) is tuple:
        return {"nargs": len(get_args(leaf.type)), "metavar": "X", "help": text}
    if get_origin(leaf.type) is Literal:
        return {"metavar": "|".join(get_args(leaf.type)), "help": text}
    return {"metavar": {int: "N", float: "X", Path: "PATH"}.get(leaf.type, "TEXT"), "help": text}


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
