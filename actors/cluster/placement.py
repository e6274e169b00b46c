"""Whether workers find a place: asked of the shapes of a cluster's nodes, and never of their sum."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tangoflux.errors import ResourceError


@dataclass(frozen=True)
class Nodes:
    """Nodes of a shape that are there, or that an autoscaler may add.

    Attributes:
        name: what people call them.
        resources: of each, by Ray's names.
        labels: of each; None where they are not known, which is taken to match.
        count: how many.
    """

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] | None = None
    count: int = 1


@dataclass(frozen=True)
class Request:
    """Workers that are to run at the same time.

    Attributes:
        name: what people call them.
        count: how many; at least so many must find a place.
        needs: what each asks of Ray.
        labels: a selector that its node must match.
    """

    name: str
    count: int
    needs: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return f"{self.count} x {self.name} ({format_resources(self.needs)})"


def place(requests: Iterable[Request], nodes: Sequence[Nodes]) -> dict[str, Counter[str]]:
    """Where each kind of worker would run: each on the first node that still has room, those with rare needs first.

    Returns:
        by request, how many workers there are on nodes of each name.

    Raises:
        ResourceError: a worker finds no place; says what is lacking, and on which nodes.
    """
    requests = sorted(requests, key=_demands, reverse=True)
    most = sum(request.count for request in requests)
    free = [(shape, dict(shape.resources)) for shape in nodes for _ in range(min(shape.count, most))]
    places: dict[str, Counter[str]] = {}
    for request in requests:
        places[request.name] = Counter()
        for _ in range(request.count):
            found = next((spot for spot in free if _fits(request, *spot)), None)
            if found is None:
                raise ResourceError(_lacking(request, nodes))
            shape, room = found
            for name, amount in request.needs.items():
                room[name] = room.get(name, 0.0) - amount
            places[request.name][shape.name] += 1
    return places


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
    """``2 CPU, 1 GPU``; what is zero, and what Ray adds on its own, is left out."""
    shown = [
        f"{amount:g} {name}"
        for name, amount in resources.items()
        if amount and name not in ("memory", "object_store_memory") and not name.startswith("node:")
    ]
    return ", ".join(shown) or "nothing"


def _demands(request: Request) -> tuple[int, float]:
    """How many things it needs that not every node has, and then how much: processors are on all of them."""
    rare = [name for name, amount in request.needs.items() if amount and name != "CPU"]
    return len(rare) + len(request.labels), sum(request.needs.values())


def _fits(request: Request, shape: Nodes, room: Mapping[str, float]) -> bool:
    enough = all(room.get(name, 0.0) + 1e-9 >= amount for name, amount in request.needs.items())
    return enough and matches(shape.labels, request.labels)


def _lacking(request: Request, nodes: Sequence[Nodes]) -> str:
    there = (
        "; ".join(f"{shape.count} x {shape.name} ({format_resources(shape.resources)})" for shape in nodes) or "no node"
    )
    fitting = [shape for shape in nodes if matches(shape.labels, request.labels)]
    if not fitting:
        wanted = ", ".join(f"{name}={value}" for name, value in request.labels.items())
        return f"{request} find no place: no node has the labels {wanted}; there are: {there}"
    most = {name: max(shape.resources.get(name, 0.0) for shape in fitting) for name in request.needs}
    for name, amount in request.needs.items():
        if amount > most[name]:
            return f"{request} find no place: no node has {amount:g} {name}, the most is {most[name]:g}; {there}"
    return f"{request} find no place beside what else runs then: ask for fewer or add nodes; there are: {there}"
