"""Whether workers can be scheduled, judged by the nodes' individual resources and not by their sum."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tangoflux.errors import ResourceError


@dataclass(frozen=True)
class NodeGroup:
    """Equal nodes that exist or that an autoscaler may add.

    Attributes:
        name: how they are called in messages.
        resources: of each node, by Ray's names.
        labels: of each node; None if unknown, which matches every selector.
        count: number of nodes.
    """

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] | None = None
    count: int = 1


@dataclass(frozen=True)
class Request:
    """Equal workers that must run at the same time.

    Attributes:
        name: how they are called in messages.
        count: number of workers.
        resources: of each worker, by Ray's names.
        labels: a selector that a worker's node must match.
    """

    name: str
    count: int
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return f"{self.count} x {self.name} ({format_resources(self.resources)})"


def place(requests: Iterable[Request], groups: Sequence[NodeGroup]) -> dict[str, Counter[str]]:
    """Assigns each worker to the first node with enough free resources; workers with rare needs come first.

    Returns:
        by request, the number of workers on the nodes of each group.

    Raises:
        ResourceError: a worker cannot be scheduled; says which resource is missing, and lists the nodes.
    """
    requests = sorted(requests, key=_rarity, reverse=True)
    most = sum(request.count for request in requests)
    nodes = [(group, dict(group.resources)) for group in groups for _ in range(min(group.count, most))]
    placement: dict[str, Counter[str]] = {request.name: Counter() for request in requests}
    for request in requests:
        for _ in range(request.count):
            found = next((node for node in nodes if _fits(request, *node)), None)
            if found is None:
                raise ResourceError(_explain_failure(request, groups))
            group, free = found
            for name, amount in request.resources.items():
                free[name] = free.get(name, 0.0) - amount
            placement[request.name][group.name] += 1
    return placement


def can_place(request: Request, groups: Sequence[NodeGroup]) -> bool:
    """Whether these workers can be scheduled."""
    try:
        place([request], groups)
    except ResourceError:
        return False
    return True


def matches(labels: Mapping[str, str] | None, selector: Mapping[str, str]) -> bool:
    """Whether a node's labels match a selector, whose values are ``a``, ``!a``, ``in(a,b)`` or ``!in(a,b)``."""
    if labels is None:
        return True
    for name, wanted in selector.items():
        options = wanted.removeprefix("!")
        listed = re.fullmatch(r"in\((.*)\)", options)
        allowed = [option.strip() for option in listed[1].split(",")] if listed else [options]
        if (labels.get(name) in allowed) == wanted.startswith("!"):
            return False
    return True


def format_resources(resources: Mapping[str, float]) -> str:
    """``2 CPU, 1 GPU``, without zeros and without the resources that Ray adds to every node."""
    shown = [
        f"{amount:g} {name}"
        for name, amount in resources.items()
        if amount and name not in ("memory", "object_store_memory") and not name.startswith("node:")
    ]
    return ", ".join(shown) or "nothing"


def _rarity(request: Request) -> tuple[int, float]:
    """The number of needs that not every node meets (every node has CPUs), then the total amount."""
    rare = [name for name, amount in request.resources.items() if amount and name != "CPU"]
    return len(rare) + len(request.labels), sum(request.resources.values())


def _fits(request: Request, group: NodeGroup, free: Mapping[str, float]) -> bool:
    enough = all(free.get(name, 0.0) + 1e-9 >= amount for name, amount in request.resources.items())
    return enough and matches(group.labels, request.labels)


def _explain_failure(request: Request, groups: Sequence[NodeGroup]) -> str:
    listed = [f"{group.count} x {group.name} ({format_resources(group.resources)})" for group in groups]
    nodes = "; ".join(listed) or "none"
    matching = [group for group in groups if matches(group.labels, request.labels)]
    if not matching:
        wanted = ", ".join(f"{name}={value}" for name, value in request.labels.items())
        return f"{request} cannot be scheduled: no node has the labels {wanted}; nodes: {nodes}"
    for name, amount in request.resources.items():
        most = max(group.resources.get(name, 0.0) for group in matching)
        if amount > most:
            missing = f"no node has {amount:g} {name}, the largest has {most:g}"
            return f"{request} cannot be scheduled: {missing}; nodes: {nodes}"
    return f"{request} cannot be scheduled next to the other workers: use fewer or add nodes; nodes: {nodes}"
