"""A command's options, declared once as a pydantic model: the command line, YAML, help and errors follow from it.

A model's fields are made by `option`, or are sections: models of such fields. An option's key is its path in the YAML
(``learner.beta``), its flag its name on the command line (``--beta``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from tangoflux.data.text_rows import has_surrogate, shown
from tangoflux.errors import ConfigError


class Options(BaseModel):
    """Base of a command's options and of their sections: immutable; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    flag_prefix: ClassVar = ""

    def to_yaml(self, leave_out: Sequence[str] = ()) -> str:
        """The options as YAML, without the top-level keys ``leave_out``."""
        values = self.model_dump(mode="json", exclude=set(leave_out))
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


LIMIT_TEXTS = {
    "gt": "above {}",
    "ge": "of at least {}",
    "lt": "and below {}",
    "le": "and at most {}",
    "min_length": "that is not empty",
}
"""How errors phrase each limit; lower limits come before upper ones."""

PATH_TEXT = "a path on this machine's file system"

REQUIRED: Any = ...
"""As a default: the option must be given."""

OFF = ("none", "null")
"""Text that switches an optional option off."""

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
    positional: bool = False,
    prefixed: bool = False,
    **limits: Any,
) -> Any:
    """Declares an option: a field of `Options`.

    Args:
        default: the value, a function that returns it, or `REQUIRED`.
        description: what it does, for the help.
        unit: what the value counts or measures, for the help.
        flag: the name on the command line, if not the field's name.
        why: the reason for the limits, appended to the error.
        allowed: describes the allowed values where type and limits do not.
        may_change: a resumed run may have another value.
        default_text: the default as the help shows it, if not the value.
        positional: an argument without a flag.
        prefixed: the flag begins with the section's ``flag_prefix``.
        limits: ``ge``, ``gt``, ``le``, ``lt``, ``min_length`` as in ``pydantic.Field``.
    """
    extra: dict[str, Any] = {"unit": unit, "flag": flag, "why": why, "allowed": allowed, "may_change": may_change}
    extra |= {"text": default_text, "positional": positional, "prefixed": prefixed}
    default_or_factory: dict[str, Any] = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**default_or_factory, description=description, json_schema_extra=extra, **limits)


@dataclass(frozen=True)
class OptionField:
    """One declared option: its key in the YAML, and its texts for help and errors."""

    key: str
    field: FieldInfo
    section: str
    prefix: str

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.split(".")[-1]

    @property
    def flag(self) -> str:
        """The name on the command line: with dashes, or in capitals if it is positional."""
        name = self.extra("flag") or self.name.replace("_", "-")
        name = f"{self.prefix}-{name}" if self.prefix and self.extra("prefixed") else name
        return name.upper() if self.extra("positional") else f"--{name}"

    @property
    def is_optional(self) -> bool:
        """Whether null (none, on the command line) is a value."""
        return NoneType in get_args(self.field.annotation)

    @property
    def type(self) -> Any:
        """The type of the values other than null."""
        kind: Any = self.field.annotation
        if get_origin(kind) in (Union, UnionType):
            kind = next(kind for kind in get_args(kind) if kind is not NoneType)
        return get_args(kind)[0] if get_origin(kind) is Annotated else kind

    @property
    def allowed(self) -> str:
        """Describes the allowed values."""
        text = self.extra("allowed") or _describe_type(self.type, self.field)
        return f"{text}, or none" if self.is_optional else text

    @property
    def help(self) -> str:
        """Description, unit and default."""
        unit = f"{self.extra('unit')}; " if self.extra("unit") else ""
        if self.field.is_required():
            return f"{self.field.description} [{unit}required]"
        return f"{self.field.description} [{unit}default {self.extra('text') or _format(self.field.default)}]"

    def extra(self, key: str) -> Any:
        """An argument of `option` that is not pydantic's."""
        extra = self.field.json_schema_extra
        assert isinstance(extra, dict), f"{self.key} was not declared by option()"
        return extra[key]

    def bad_value(self, source: str, value: object) -> ConfigError:
        """The error for a value that is not allowed; ``source`` is the flag or file it came from."""
        text = _format(value)
        text = text if len(text) <= 60 else text[:57] + "..."
        why = f"; {self.extra('why')}" if self.extra("why") else ""
        return ConfigError(f"{source} is {text}: it must be {self.allowed}{why}")


def sections(model: type[Options]) -> dict[str, type[Options]]:
    """The sections of a command's options by name."""
    kinds = {name: field.annotation for name, field in model.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Options)}


def option_fields(model: type[Options]) -> Iterator[OptionField]:
    """All options of a command, in the order of their declaration; the section of those outside sections is ""."""
    for name, field in model.model_fields.items():
        section = sections(model).get(name)
        if section is None:
            yield OptionField(name, field, "", "")
        else:
            for inner, inner_field in section.model_fields.items():
                yield OptionField(f"{name}.{inner}", inner_field, name, section.flag_prefix)


def option_values(options: Options) -> dict[str, Any]:
    """Values by key."""
    values: dict[str, Any] = {}
    for field in option_fields(type(options)):
        owner = getattr(options, field.section) if field.section else options
        values[field.key] = getattr(owner, field.name)
    return values


def build(model: type[Model], values: Mapping[str, Any], sources: Mapping[str, str]) -> Model:
    """Checks values and returns the options.

    Args:
        values: by key; text stands for what it spells.
        sources: the flag or file that each value came from, for the errors.

    Raises:
        ConfigError: a value is not allowed, or values contradict each other.
    """
    known = {field.key: field for field in option_fields(model)}
    values = {key: None if known[key].is_optional and value in OFF else value for key, value in values.items()}
    for key, value in values.items():
        if known[key].type is str and isinstance(value, str) and has_surrogate(value):
            raise ConfigError(f"{sources[key]} is {shown(value)}, which is not UTF-8 text; write it in UTF-8")
        # pydantic accepts true as 1 and 1.0; here it is a mistake.
        if isinstance(value, bool) and known[key].type is not bool:
            raise known[key].bad_value(sources[key], value)
    try:
        return model.model_validate(_nested(values))
    except ValidationError as error:
        first = error.errors()[0]
        field = known.get(".".join(str(part) for part in first["loc"][:2])) or known.get(str((*first["loc"], "")[0]))
        if field is None:
            raise ConfigError(first["msg"].removeprefix("Value error, ")) from None
        if field.key not in values:
            raise ConfigError(f"{field.flag} is required: {field.field.description}") from None
        raise field.bad_value(sources[field.key], values[field.key]) from None


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return tree


def _format(value: object) -> str:
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
    noun = {int: "a whole number", float: "a number", bool: "true or false", Path: PATH_TEXT}.get(kind, "text")
    limits = {name: getattr(rule, name) for rule in field.metadata for name in LIMIT_TEXTS if hasattr(rule, name)}
    if limits.keys() == {"ge", "le"}:
        return f"{noun} from {limits['ge']} to {limits['le']}"
    return " ".join([noun, *(LIMIT_TEXTS[name].format(limit) for name, limit in limits.items())])
