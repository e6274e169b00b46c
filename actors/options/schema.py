"""A job's options, declared once as a pydantic model: from it come the command line, the YAML, the help and the errors.

A job's model has leaves made by `option`, and sections, which are models of leaves. A leaf's path is its place in the
YAML (``learner.beta``), its flag its name on the command line (``--beta``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from tangoflux.errors import ConfigError


class Options(BaseModel):
    """Base of a job's options and of their sections: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def to_yaml(self, leave_out: Sequence[str] = ()) -> str:
        """The options as YAML, without the top-level keys ``leave_out``."""
        values = self.model_dump(mode="json", exclude=set(leave_out))
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


SAID = {
    "gt": "above {}",
    "ge": "of at least {}",
    "lt": "and below {}",
    "le": "and at most {}",
    "min_length": "that is not empty",
}
"""Limits in words; a lower one comes before an upper one."""

REQUIRED: Any = ...
"""In place of a default: the option must be given."""

Model = TypeVar("Model", bound=Options)


def option(
    default: Any,
    description: str,
    *,
    unit: str = "",
    flag: str = "",
    why: str = "",
    allowed: str = "",
    may_change: bool = False,
    default_text: str = "",
    **limits: Any,
) -> Any:
    """A leaf of a job's options.

    Args:
        default: the value, a function that makes it, or `REQUIRED`.
        description: what it does, for the help.
        unit: what the value counts or measures, for the help.
        flag: the command line's name for it, where that is not the field's name.
        why: reason of the limits, appended to the error.
        allowed: the allowed values in words, where they do not follow from type and limits.
        may_change: a run that is resumed may have another value.
        default_text: what the help shows as the default, where that is not the value.
        limits: ``ge``, ``gt``, ``le``, ``lt``, ``min_length`` as in ``pydantic.Field``.
    """
    extra: dict[str, Any] = {
        "unit": unit,
        "flag": flag,
        "why": why,
        "allowed": allowed,
        "may_change": may_change,
        "text": default_text,
    }
    made: dict[str, Any] = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**made, description=description, json_schema_extra=extra, **limits)


@dataclass(frozen=True)
class Leaf:
    """One option: its place in the YAML, and what the help and the errors say of it."""

    path: str
    field: FieldInfo
    section: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.split(".")[-1]

    @property
    def flag(self) -> str:
        """The name on the command line, with its dashes."""
        return "--" + (self.extra("flag") or self.name.replace("_", "-"))

    @property
    def is_optional(self) -> bool:
        """Whether null (on the command line: none) is a value."""
        return NoneType in get_args(self.field.annotation)

    @property
    def type(self) -> Any:
        """The type of the values, null left out."""
        if get_origin(self.field.annotation) not in (Union, UnionType):
            return self.field.annotation
        return next(kind for kind in get_args(self.field.annotation) if kind is not NoneType)

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        words = self.extra("allowed") or _describe_type(self.type, self.field)
        return f"{words}, or none" if self.is_optional else words

    @property
    def help(self) -> str:
        """Description, unit and default."""
        unit = f"{self.extra('unit')}; " if self.extra("unit") else ""
        if self.field.is_required():
            return f"{self.field.description} [{unit}required]"
        return f"{self.field.description} [{unit}default {self.extra('text') or _shown(self.field.default)}]"

    def extra(self, key: str) -> Any:
        """What `option` was told beside pydantic's own arguments."""
        extra = self.field.json_schema_extra
        assert isinstance(extra, dict), f"{self.path} was not made by option()"
        return extra[key]

    def bad_value(self, origin: str, value: object) -> ConfigError:
        """The error for a value that is not allowed; ``origin`` is where it came from."""
        shown = _shown(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        why = f"; {self.extra('why')}" if self.extra("why") else ""
        return ConfigError(f"{origin} is {shown}: it must be {self.allowed}{why}")


def sections(model: type[Options]) -> dict[str, type[Options]]:
    """The sections of a job's options by name."""
    kinds = {name: field.annotation for name, field in model.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Options)}


def leaves(model: type[Options]) -> Iterator[Leaf]:
    """All options of a job, in the order of their declaration; those outside of sections stand in section "run"."""
    for name, field in model.model_fields.items():
        section = sections(model).get(name)
        if section is None:
            yield Leaf(name, field, "run")
        else:
            yield from (Leaf(f"{name}.{inner}", field, name) for inner, field in section.model_fields.items())


def leaf_values(options: Options) -> dict[str, Any]:
    """The value of each leaf by its path."""
    values: dict[str, Any] = {}
    for leaf in leaves(type(options)):
        owner = options if leaf.section == "run" else getattr(options, leaf.section)
        values[leaf.path] = getattr(owner, leaf.name)
    return values


def build(model: type[Model], values: Mapping[str, Any], origins: Mapping[str, str]) -> Model:
    """The options from values by path.

    Args:
        origins: where each value came from, for the errors.

    Raises:
        ConfigError: a value is not allowed, or values do not go together.
    """
    known = {leaf.path: leaf for leaf in leaves(model)}
    for path, value in values.items():
        # To pydantic true is also 1 and 1.0; here it is a slip.
        if isinstance(value, bool) and known[path].type is not bool:
            raise known[path].bad_value(origins[path], value)
    try:
        return model.model_validate(_nested(values))
    except ValidationError as error:
        first = error.errors()[0]
        leaf = known.get(".".join(str(part) for part in first["loc"][:2])) or known.get(str((*first["loc"], "")[0]))
        if leaf is None:
            raise ConfigError(first["msg"].removeprefix("Value error, ")) from None
        if leaf.path not in values:
            raise ConfigError(f"{leaf.flag} is required: {leaf.field.description}") from None
        raise leaf.bad_value(origins[leaf.path], values[leaf.path]) from None


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return tree


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if isinstance(value, Mapping):
        return ",".join(f"{name}={amount}" for name, amount in cast("Mapping[object, object]", value).items()) or "none"
    return str(value) or "empty"


def _describe_type(kind: Any, field: FieldInfo) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    noun = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}.get(kind, "text")
    limits = {name: getattr(rule, name) for rule in field.metadata for name in SAID if hasattr(rule, name)}
    if limits.keys() == {"ge", "le"}:
        return f"{noun} from {limits['ge']} to {limits['le']}"
    return " ".join([noun, *(SAID[name].format(limit) for name, limit in limits.items())])
