"""Where workers may run: the options that every kind of worker has, declared once."""

from __future__ import annotations

import re
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from actors.options.pool_size import ALLOWED, PoolSize
from actors.options.schema import OFF, REQUIRED, option

RESERVED_RESOURCES = ("CPU", "GPU", "memory", "object_store_memory")
"""Ray's names for resources that other options request, or that no option should."""

_COMMA = re.compile(r",(?![^(]*\))")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")


def _split(value: object) -> object:
    """``a=1,b=2`` as a mapping, ``none`` as an empty one; values other than text pass unchanged."""
    if value in OFF:
        return {}
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in _COMMA.split(value) if part.strip()]
    if not all(name.strip() and text.strip() for name, _, text in pairs):
        raise ValueError("not NAME=VALUE")
    return {name.strip(): text.strip() for name, _, text in pairs}


def _check_amounts(amounts: dict[str, float]) -> dict[str, float]:
    for name, amount in amounts.items():
        if name in RESERVED_RESOURCES or not _NAME.fullmatch(name) or amount <= 0:
            raise ValueError("not allowed")
    return amounts


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    if not all(_NAME.fullmatch(name) and value for name, value in labels.items()):
        raise ValueError("not allowed")
    return labels


CustomResources = Annotated[
    dict[str, float],
    BeforeValidator(_split),
    AfterValidator(_check_amounts),
    option(
        REQUIRED,
        "custom resources that each worker requests from Ray, such as rollout=1; only nodes that have them run it",
        allowed=f"NAME=AMOUNT,... with amounts above 0 and names other than {', '.join(RESERVED_RESOURCES)}",
        prefixed=True,
        may_change=True,
    ),
]

LabelSelector = Annotated[
    dict[str, str],
    BeforeValidator(_split),
    AfterValidator(_check_labels),
    option(
        REQUIRED,
        "labels of the nodes that may run a worker, such as ray.io/accelerator-type=H100 or zone=in(a,b)",
        allowed="LABEL=VALUE,... where a value may also be !VALUE, in(A,B) or !in(A,B)",
        default_text="any node",
        prefixed=True,
        may_change=True,
    ),
]

ANY_NODE: dict[str, Any] = {}
"""The default of both."""

Threads = Annotated[int, option(REQUIRED, "CPU threads of each", ge=1, le=1024, prefixed=True)]
NumCpus = Annotated[float, option(REQUIRED, "CPUs that each requests from Ray", ge=0, prefixed=True, may_change=True)]
NumGpus = Annotated[
    float,
    option(REQUIRED, "GPUs, or a share of one, that each requests from Ray", ge=0, prefixed=True, may_change=True),
]

NumWorkers = Annotated[
    int, option(REQUIRED, "number of processes", unit="processes", ge=1, prefixed=True, may_change=True)
]

ElasticNumWorkers = Annotated[
    PoolSize,
    BeforeValidator(PoolSize.parse),
    PlainSerializer(lambda size: size.least if size.least == size.most else str(size), return_type=int | str),
    option(
        REQUIRED,
        "number of processes; a range such as 1:16 grows and shrinks with the work",
        unit="processes",
        allowed=ALLOWED,
        prefixed=True,
        may_change=True,
    ),
]

WorkerTimeout = Annotated[
    float,
    option(
        REQUIRED,
        "a worker that takes longer for a chunk counts as hung and is replaced; 0: no limit",
        unit="seconds",
        ge=0,
        prefixed=True,
        may_change=True,
    ),
]


class Processes(Protocol):
    """The options that every kind of worker has."""

    @property
    def workers(self) -> int | PoolSize: ...  # noqa: D102
    @property
    def num_cpus(self) -> float: ...  # noqa: D102
    @property
    def num_gpus(self) -> float: ...  # noqa: D102


class ScheduledWorkerOptions(Processes, Protocol):
    """The options of workers that may request certain nodes."""

    @property
    def resources(self) -> dict[str, float]: ...  # noqa: D102
    @property
    def label_selector(self) -> dict[str, str]: ...  # noqa: D102


class PoolOptions(ScheduledWorkerOptions, Protocol):
    """The options of workers in a pool."""

    @property
    def timeout_s(self) -> float: ...  # noqa: D102
