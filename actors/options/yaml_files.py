"""YAML files of options: found by path or shipped name, read strictly, flattened to values by path."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from actors.options.schema import Leaf, Model, Options, build, leaves, sections
from tangoflux.errors import ConfigError


def load_file(model: type[Model], file: Path) -> Model:
    """The options that a YAML file gives.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or a value is not allowed.
    """
    values = read_values(model, file)
    return build(model, values, {path: f"{path} in {file}" for path in values})


def read_values(model: type[Options], file: Path) -> dict[str, Any]:
    """The values of a YAML file by path, not checked yet.

    Raises:
        ConfigError: the file cannot be read, is no mapping, or a key is unknown.
    """
    known = list(leaves(model))
    tree = dict(_read(file))
    # A file beside it, of whose values it changes some.
    base = read_values(model, _beside(file, tree.pop("extends"))) if "extends" in tree else {}
    values = base | _flat(tree, list(sections(model)), file)
    for path in values:
        if path not in {leaf.path for leaf in known}:
            raise ConfigError(f"{file}: unknown key {path}{hint(_nearest_path(path, known))}")
    return values


def find_config(name: str, shipped: Mapping[str, Path]) -> Path:
    """The file that ``--config`` means: one that comes with the project, by its name, or a path.

    Raises:
        ConfigError: there is neither.
    """
    if name in shipped:
        return shipped[name]
    if Path(name).is_file():
        return Path(name)
    if not shipped:
        raise ConfigError(f"--config {name} is no file")
    near = difflib.get_close_matches(name, shipped, n=1)
    raise ConfigError(f"--config {name} is no file and none of {', '.join(shipped)}{hint(near[0] if near else None)}")


def hint(nearest: str | None) -> str:
    """The end of an error about a name that is not known."""
    return f"; did you mean {nearest}?" if nearest else "; see --help for what there is"


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, where YAML's own loader takes the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands here for the second time", mark)
        return super().construct_mapping(node, deep)


# To YAML 1.1 an unquoted 1:16 is the number 76, written by base 60; here it is a range of workers.
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
        raise ConfigError(f"{file} is not UTF-8 text, so no YAML file") from None
    except RecursionError:
        raise ConfigError(f"{file}: not YAML of options: it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{file}:{line}: not YAML: {error.problem}") from None
    if not isinstance(tree, Mapping | None):
        raise ConfigError(f"{file} holds {type(tree).__name__}; write options as 'key: value', one a line")
    return tree or {}


def _beside(file: Path, name: object) -> Path:
    if not isinstance(name, str) or name == file.name or not (file.parent / name).is_file():
        raise ConfigError(f"{file}: extends is {name!r}; it must be another file beside it")
    return file.parent / name


def _flat(tree: Mapping[Any, Any], names: Sequence[str], file: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in names:
            values[str(key)] = value
        elif isinstance(value, Mapping | None):
            values.update({f"{key}.{inner}": innermost for inner, innermost in (value or {}).items()})
        else:
            raise ConfigError(f"{file}: {key} is a section; write its keys below it, indented, instead of {value!r}")
    return values


def _nearest_path(path: str, known: Sequence[Leaf]) -> str | None:
    """The leaf that was meant: the right name at the wrong place, the flag's name, or a slip of the pen."""
    name = path.split(".")[-1]
    for leaf in known:
        if name.replace("_", "-") in (leaf.name.replace("_", "-"), leaf.flag.strip("-")):
            return leaf.path
    near = difflib.get_close_matches(path, [leaf.path for leaf in known], n=1, cutoff=0.75)
    near_names = difflib.get_close_matches(name, [leaf.name for leaf in known], n=1)
    return near[0] if near else next((leaf.path for leaf in known if [leaf.name] == near_names), None)
