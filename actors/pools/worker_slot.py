"""A worker slot: one worker (an actor) of a pool, and the work items that were submitted to it."""

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
"""Seconds before a replacement starts, by the number of workers of the slot that died since one completed an item."""

DEATHS = (RayActorError, OutOfMemoryError, RuntimeEnvSetupError, ActorUnschedulableError)
"""Raised by a call whose actor is dead, unreachable or impossible to create on its node."""

START_TIMEOUT_S = 1800.0
"""Start-up timeout: node provisioning plus model loading."""

TELL_S = 30.0
"""What has no place in the cluster for so long is told."""

RECENT_S = 1.0
"""A worker that was idle for longer is pinged before it gets an item, or the item would be blamed for its death."""

MAX_IN_FLIGHT = 2
"""Items of a worker: one that runs, and one queued so that the worker never waits for the driver."""

ISOLATE_AFTER = 2
"""An item that was running when this many workers died is next run by a worker that has no other item."""


class WorkerError(TangoFluxError):
    """A worker could not start, raised an error, or died repeatedly on the same work item."""


@dataclass(eq=False)
class WorkItem(Generic[T]):
    """An input of a stream, the argument that the method is called with, and how many workers died running it."""

    key: T
    value: Any
    deaths: int = 0


@dataclass(eq=False)
class InFlightTask(Generic[T]):
    """A work item that was submitted to a worker. The receipt is small; the result stays where it is computed."""

    item: WorkItem[T]
    receipt: ObjectRef[Any]
    result: ObjectRef[Any]


@dataclass(eq=False)
class WorkerSlot:
    """One worker at a time: after a death the slot is empty until the replacement starts.

    Attributes:
        actor: the handle, or None while the slot is empty.
        setup: set-up calls that must complete before the worker is ready.
        setup_since: start of the set-up once the actor's process is up, in ``time.monotonic()`` seconds; else None.
        was_ready: the worker has been ready at least once.
        in_flight: its tasks, in the order in which it runs them.
        deaths: workers of this slot that died since one completed an item.
        failed_starts: consecutive workers of this slot that died before they were ready.
        start_at: earliest start of the replacement, in ``time.monotonic()`` seconds.
        busy_since: when its first task became the first, or when it became idle.
        draining: the worker gets no more items and is ended after those in flight.
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
        """Whether the worker can run items."""
        return self.actor is not None and not self.setup

    @property
    def pending(self) -> list[ObjectRef[Any]]:
        """The reference to wait for, if any; an actor's calls complete in order, so one is enough."""
        return [task.receipt for task in list(self.in_flight)[:1]] or self.setup[-1:]

    def start(self, actor: Any, calls: Iterable[tuple[str, Sequence[Any]]]) -> None:
        """Fills the slot with a new actor, which is ready after ``calls``."""
        self.actor = actor
        self.setup_since, self.was_ready = None, False
        self.set_up("__ray_ready__")
        for method, args in calls:
            self.set_up(method, *args)

    def set_up(self, method: str, *args: Any) -> None:
        """Calls a method; the worker is not ready until it returns."""
        if self.was_ready and not self.setup:
            self.setup_since = time.monotonic()
        self.setup.append(_call(self.actor, method, *args)[0])

    def seconds_waited(self) -> float:
        """How long the worker has run its first task, or else its set-up, without the start of the process."""
        if self.in_flight:
            return time.monotonic() - self.busy_since
        if self.setup_since is None and self.setup and is_done(self.setup[0]):
            self.setup_since = time.monotonic()
        return time.monotonic() - self.setup_since if self.setup and self.setup_since is not None else 0.0

    def is_hung(self, timeout_s: float) -> bool:
        """Whether the worker has not answered for so many seconds; 0: never."""
        waited = 0 < timeout_s < self.seconds_waited()
        return waited and bool(self.pending) and not is_done(self.pending[0])

    def set_ready(self) -> None:
        """Ends the set-up."""
        self.setup = []
        self.was_ready = True
        self.failed_starts = 0
        self.busy_since = time.monotonic()

    def accepts(self, item: WorkItem[Any] | None = None) -> bool:
        """Whether an item (by default, any new one) can be submitted; one that ended two workers runs alone."""
        items = [task.item for task in self.in_flight] + ([item] if item else [])
        limit = 1 if any(item.deaths >= ISOLATE_AFTER for item in items) else MAX_IN_FLIGHT
        return self.ready and not self.draining and len(self.in_flight) < limit

    def submit(self, item: WorkItem[Any], method: str, args: Sequence[Any]) -> None:
        """Submits an item to the worker."""
        if not self.in_flight:
            self.busy_since = time.monotonic()
        self.in_flight.append(InFlightTask(item, *_call(self.actor, method, item.value, *args)))

    def complete(self) -> InFlightTask[Any]:
        """Removes and returns the first task."""
        self.busy_since = time.monotonic()
        return self.in_flight.popleft()

    @property
    def recently_alive(self) -> bool:
        """Whether the worker has work or had some a moment ago."""
        return bool(self.in_flight) or time.monotonic() - self.busy_since < RECENT_S

    def clear(self) -> None:
        """Empties the slot, ends the actor if it is still alive, and schedules the replacement. Keeps ``in_flight``."""
        self.kill()
        self.deaths += 1
        self.failed_starts += not self.was_ready
        self.actor = None
        self.setup = []
        self.start_at = time.monotonic() + BACKOFF_S[min(self.deaths, len(BACKOFF_S)) - 1]

    def kill(self) -> None:
        """Ends the actor, if any."""
        if self.actor is not None:
            ray.kill(self.actor)


def drain(slots: list[WorkerSlot], number: int) -> None:
    """Lets all but ``number`` of the workers end after their items, and removes those that have none from ``slots``.

    First go the workers that lose least: those that have not started, then those without items.
    """
    staying = sorted((slot for slot in slots if not slot.draining), key=lambda slot: (slot.ready, len(slot.in_flight)))
    for slot in staying[: max(0, len(staying) - number)]:
        slot.draining = True
    for slot in [slot for slot in slots if slot.draining and not slot.in_flight]:
        slot.kill()
        slots.remove(slot)


def is_done(reference: ObjectRef[Any]) -> bool:
    """Whether a call has ended, successfully or not; fetches nothing."""
    return bool(ray.wait([reference], timeout=0, fetch_local=False)[0])


def worker_error(name: str, what: str, error: Exception) -> TangoFluxError:
    """The error to raise for a worker: its own TangoFluxError, or else one line that says what happened."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, TangoFluxError):
        return error.cause
    return WorkerError(f"{name}: {what}: {first_line(error)}")


def first_line(error: Exception) -> str:
    """What happened, in one line."""
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}".split("\n")[0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A constructor's traceback ends with its error.
    return lines[-1] if isinstance(error, RayActorError) and error.actor_init_failed else lines[0]


def _call(actor: Any, method: str, *args: Any) -> tuple[ObjectRef[Any], ObjectRef[Any]]:
    """Calls an actor's method; returns a receipt, which is small, and the result, which need never be fetched."""
    return actor.__ray_call__.options(num_returns=2).remote(_with_receipt, method, *args)


def _with_receipt(worker: Any, method: str, *args: Any) -> tuple[None, Any]:
    return None, getattr(worker, method)(*args)
