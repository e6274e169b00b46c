"""Where workers may run: the options that name custom resources and labels of nodes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, BeforeValidator

from actors.options.pool_size import PoolSize
from actors.options.schema import option

COUNTED_ELSEWHERE = ("CPU", "GPU", "memory", "object_store_memory")
"""Names that Ray has for what other options ask for, or nobody should."""

_COMMA = re.compile(r",(?![^(]*\))")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")


def resources_option(flag: str) -> Any:
    """What each worker asks of Ray beside CPUs and GPUs."""
    return option(
        dict[str, float],
        "custom resources that a worker asks of Ray, such as rollout=1; only nodes that have them take it",
        flag=flag,
        allowed=f"NAME=AMOUNT,... with amounts above 0 and names other than {', '.join(COUNTED_ELSEWHERE)}",
        default_text="none",
        may_change=True,
    )


def label_selector_option(flag: str) -> Any:
    """Which nodes may take a worker."""
    return option(
        dict[str, str],
        "labels of the nodes that may take a worker, such as ray.io/accelerator-type=H100 or zone=in(a,b)",
        flag=flag,
        allowed="LABEL=VALUE,... where a value may also be !VALUE, in(A,B) or !in(A,B)",
        default_text="any node",
        may_change=True,
    )


def _split(value: object) -> object:
    """``a=1,b=2`` as a mapping, ``none`` as an empty one; what is no text is left to the type."""
    if value == "none":
        return {}
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in _COMMA.split(value) if part.strip()]
    if not all(name.strip() and text.strip() for name, _, text in pairs):
        raise ValueError("no NAME=VALUE")
    return {name.strip(): text.strip() for name, _, text in pairs}


def _checked_amounts(amounts: dict[str, float]) -> dict[str, float]:
    for name, amount in amounts.items():
        if name in COUNTED_ELSEWHERE or not _NAME.fullmatch(name) or amount <= 0:
            raise ValueError("not allowed")
    return amounts


def _checked_labels(labels: dict[str, str]) -> dict[str, str]:
    if not all(_NAME.fullmatch(name) and value for name, value in labels.items()):
        raise ValueError("not allowed")
    return labels


CustomResources = Annotated[dict[str, float], BeforeValidator(_split), AfterValidator(_checked_amounts)]
LabelSelector = Annotated[dict[str, str], BeforeValidator(_split), AfterValidator(_checked_labels)]


class Processes(Protocol):
    """The options that every kind of worker has."""

    @property
    def workers(self) -> int | PoolSize: ...  # noqa: D102
    @property
    def num_cpus(self) -> float: ...  # noqa: D102
    @property
    def num_gpus(self) -> float: ...  # noqa: D102


class ScheduledWorkerOptions(Processes, Protocol):
    """The options of workers that may ask for nodes of a kind."""

    @property
    def resources(self) -> dict[str, float]: ...  # noqa: D102
    @property
    def label_selector(self) -> dict[str, str]: ...  # noqa: D102


class PoolOptions(ScheduledWorkerOptions, Protocol):
    """The options of workers that make a pool."""

    @property
    def timeout_s(self) -> float: ...  # noqa: D102
