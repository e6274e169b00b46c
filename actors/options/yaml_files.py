"""YAML files of options: found by path or name, parsed strictly, flattened to values by key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from actors.options.schema import Model, OptionField, Options, build, option_fields, sections
from tangoflux.errors import ConfigError


def load_file(model: type[Model], file: Path) -> Model:
    """Loads options from a YAML file.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or a value is not allowed.
    """
    values = read_values(model, file)
    return build(model, values, {key: f"{key} in {file}" for key in values})


def read_values(model: type[Options], file: Path) -> dict[str, Any]:
    """The values of a YAML file by key, not checked yet.

    Raises:
        ConfigError: the file cannot be read, is not a mapping, or has an unknown key.
    """
    known = list(option_fields(model))
    tree = dict(_read(file))
    base = read_values(model, _base_file(file, tree.pop("extends"))) if "extends" in tree else {}
    values = base | _flatten(tree, list(sections(model)), file)
    for key in values:
        if key not in {option.key for option in known}:
            raise ConfigError(f"{file}: unknown key {key}{hint(_nearest_key(key, known))}")
    return values


def find_config(name: str, configs: Mapping[str, Path]) -> Path:
    """Finds the file that ``--config`` names, by a key of ``configs`` or by its path.

    Raises:
        ConfigError: there is neither.
    """
    if name in configs:
        return configs[name]
    if Path(name).is_file():
        return Path(name)
    if not configs:
        raise ConfigError(f"--config {name}: no such file")
    near = difflib.get_close_matches(name, configs, n=1)
    raise ConfigError(
        f"--config {name}: neither a file nor one of {', '.join(configs)}{hint(near[0] if near else None)}"
    )


def hint(nearest: str | None) -> str:
    """The end of an error about an unknown name."""
    return f"; did you mean {nearest}?" if nearest else "; see --help for all options"


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, of which YAML's own loader silently uses the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", mark)
        return super().construct_mapping(node, deep)


# In YAML 1.1 an unquoted 1:16 is the number 76 in base 60; here it is a range of workers.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:int"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))


def _read(file: Path) -> Mapping[Any, Any]:
    try:
        tree: object = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        raise ConfigError(f"{file} is not YAML: it is not UTF-8 text") from None
    except RecursionError:
        raise ConfigError(f"{file}: not options: nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{file}:{line}: not YAML: {error.problem}") from None
    if not isinstance(tree, Mapping | None):
        raise ConfigError(f"{file} holds {type(tree).__name__}; write options as 'key: value', one a line")
    return tree or {}


def _base_file(file: Path, name: object) -> Path:
    if not isinstance(name, str) or name == file.name or not (file.parent / name).is_file():
        raise ConfigError(f"{file}: extends is {name!r}: it must be another file in the same directory")
    return file.parent / name


def _flatten(tree: Mapping[Any, Any], section_names: Sequence[str], file: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in section_names:
            values[str(key)] = value
        elif isinstance(value, Mapping | None):
            values.update({f"{key}.{inner}": innermost for inner, innermost in (value or {}).items()})
        else:
            raise ConfigError(f"{file}: {key} is a section: indent its keys below it instead of {value!r}")
    return values


def _nearest_key(key: str, known: Sequence[OptionField]) -> str | None:
    """The option that was probably meant: its name in the wrong section, its flag, or a typing mistake."""
    name = key.split(".")[-1]
    for option in known:
        if name.replace("_", "-") in (option.name.replace("_", "-"), option.flag.strip("-")):
            return option.key
    near = difflib.get_close_matches(key, [option.key for option in known], n=1, cutoff=0.75)
    near_names = difflib.get_close_matches(name, [option.name for option in known], n=1)
    return near[0] if near else next((option.key for option in known if [option.name] == near_names), None)
