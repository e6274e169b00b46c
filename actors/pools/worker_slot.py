"""The parts of a worker pool: a slot with its actor, and the tasks that the actor was given."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import ActorUnschedulableError, OutOfMemoryError, RayActorError, RayTaskError, RuntimeEnvSetupError

from tangoflux.errors import TangoFluxError

T = TypeVar("T")

BACKOFF_S = (0.0, 1.0, 5.0, 15.0, 30.0)
"""Seconds before a replacement starts, by how many actors of its slot died since one of them finished a task."""

DEATHS = (RayActorError, OutOfMemoryError, RuntimeEnvSetupError, ActorUnschedulableError)
"""What a call raises when its actor is dead, out of reach, or could never be made on its node."""


START_TIMEOUT_S = 1800.0
"""Processes that nobody has heard of yet have so long: they wait for nodes, which a cloud must find, and load."""

RECENT_S = 1.0
"""An actor that did nothing for longer must answer before it is given a task, or its death would be blamed on that."""

ISOLATE_AFTER = 2
"""A task that ended so many actors is given to an actor that has no other."""


class WorkerError(TangoFluxError):
    """A worker could not start, raised, or died again and again at the same task."""


@dataclass(eq=False)
class WorkItem(Generic[T]):
    """An input of a stream, what the method is called with for it, and how many workers died that had it."""

    key: T
    value: Any
    deaths: int = 0


@dataclass(eq=False)
class InFlightTask(Generic[T]):
    """A task that an actor was given. The receipt tells how it went; the result stays where it is made."""

    task: WorkItem[T]
    receipt: ObjectRef[Any]
    result: ObjectRef[Any]


@dataclass(eq=False)
class WorkerSlot:
    """A place of the pool.

    Attributes:
        actor: the handle, or None between a death and the replacement.
        setup: calls that must end before the actor is ready.
        setup_since: when the first of them ended, and so the actor was there; None before that.
        was_ready: the actor was ready at least once.
        in_flight: its tasks, in the order in which it runs them.
        deaths: actors that died here since one finished a task.
        failed_starts: actors that died here, one after another, before they were ready.
        start_at: when the replacement may start, in ``time.monotonic()`` seconds.
        busy_since: when the first of its tasks became the first, or when it had no more tasks.
        draining: it is given no more tasks, and ends after those that it has.
    """

    actor: Any = None
    setup: list[ObjectRef[Any]] = field(default_factory=list)
    setup_since: float | None = None
    was_ready: bool = False
    in_flight: deque[InFlightTask[Any]] = field(default_factory=deque)
    deaths: int = 0
    failed_starts: int = 0
    start_at: float = 0.0
    busy_since: float = 0.0
    draining: bool = False

    @property
    def ready(self) -> bool:
        """Whether the actor can be given tasks."""
        return self.actor is not None and not self.setup

    @property
    def pending(self) -> list[ObjectRef[Any]]:
        """The reference to wait for, if any; an actor's calls end in order, so one is enough."""
        return [task.receipt for task in list(self.in_flight)[:1]] or self.setup[-1:]

    def start(self, actor: Any, calls: Iterable[tuple[str, Sequence[Any]]]) -> None:
        """Takes a new actor, which is ready after ``calls``."""
        self.actor = actor
        self.setup_since, self.was_ready = None, False
        self.set_up("__ray_ready__")
        for method, args in calls:
            self.set_up(method, *args)

    def set_up(self, method: str, *args: Any) -> None:
        """Calls a method, after which the actor is ready again."""
        if self.was_ready and not self.setup:
            self.setup_since = time.monotonic()
        self.setup.append(call(self.actor, method, *args)[0])

    def seconds_of_setup(self) -> float:
        """For how long an actor that is there has not become ready."""
        if self.setup_since is None and self.setup and is_done(self.setup[0]):
            self.setup_since = time.monotonic()
        return time.monotonic() - self.setup_since if self.setup and self.setup_since is not None else 0.0

    def set_ready(self) -> None:
        """Ends the start-up."""
        self.setup = []
        self.was_ready = True
        self.failed_starts = 0
        self.busy_since = time.monotonic()

    def submit(self, task: WorkItem[Any], method: str, args: Sequence[Any]) -> None:
        """Gives the actor a task."""
        if not self.in_flight:
            self.busy_since = time.monotonic()
        self.in_flight.append(InFlightTask(task, *call(self.actor, method, task.value, *args)))

    def complete(self) -> InFlightTask[Any]:
        """Takes its first task out."""
        self.busy_since = time.monotonic()
        return self.in_flight.popleft()

    @property
    def recently_alive(self) -> bool:
        """Whether the actor lived a moment ago."""
        return bool(self.in_flight) or time.monotonic() - self.busy_since < RECENT_S

    def accepts(self, task: WorkItem[Any], most: int) -> bool:
        """Whether the actor may be given a task beside those that it has; one that ended two actors flies alone."""
        alone = task.deaths >= ISOLATE_AFTER or any(task.task.deaths >= ISOLATE_AFTER for task in self.in_flight)
        return self.ready and not self.draining and len(self.in_flight) < (1 if alone else most)

    def empty(self) -> None:
        """Ends the actor, if it still lives, and sets when the next one may start. The in_flight stay."""
        if self.actor is not None:
            ray.kill(self.actor)
        self.deaths += 1
        self.failed_starts += not self.was_ready
        self.actor = None
        self.setup = []
        self.start_at = time.monotonic() + BACKOFF_S[min(self.deaths, len(BACKOFF_S)) - 1]


def call(actor: Any, method: str, *args: Any) -> tuple[ObjectRef[Any], ObjectRef[Any]]:
    """Calls an actor's method: a receipt, which is small, and the result, which need never be fetched."""
    return actor.__ray_call__.options(num_returns=2).remote(_with_receipt, method, *args)


def is_done(reference: ObjectRef[Any]) -> bool:
    """Whether a call ended, well or not; fetches nothing."""
    return bool(ray.wait([reference], timeout=0, fetch_local=False)[0])


def first_line(error: Exception) -> str:
    """What happened, in one line."""
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}".split("\n")[0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A constructor's traceback ends with its error.
    return lines[-1] if isinstance(error, RayActorError) and error.actor_init_failed else lines[0]


def _with_receipt(worker: Any, method: str, *args: Any) -> tuple[None, Any]:
    return None, getattr(worker, method)(*args)
