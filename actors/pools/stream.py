"""A stream of work items through a pool: bounded, in order of completion, each input exactly once."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import length_hint
from typing import Any, Protocol, TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import ObjectLostError, RayTaskError

from actors.pools.status import Usage
from actors.pools.worker_slot import DEATHS, MAX_IN_FLIGHT, WorkerSlot, WorkItem, first_line, is_done, worker_error
from tangoflux.errors import TangoFluxError

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_DEATHS = 3
"""An item that was running when this many workers died is given up."""

POLL_S = 1.0
"""Longest wait before a stream checks what has no reference to wait for: back-off and start-up times."""

OnGiveUp = Callable[[T, TangoFluxError], None]
"""Called with an input that was given up, and the reason."""


class StreamingPool(Protocol):
    """What a stream needs of its pool, which is a ``Pool``."""

    name: str
    usage: Usage

    def slots_of(self, stream: Any) -> list[WorkerSlot]:
        """All slots, if the pool still works for this stream."""
        ...

    def poll(self) -> None:
        """Starts workers that are due, and detects those that became ready, hang or died during set-up."""
        ...

    def replace(self, slot: WorkerSlot, error: Exception) -> None:
        """Replaces a dead worker after a back-off."""
        ...


class Stream(Iterator[tuple[T, ObjectRef[Any]]]):
    """The results of one method for many inputs, as they complete; created by ``Pool.stream``.

    Nothing runs in the background: every request for a result also collects completed items and submits new ones, here
    and in the streams upstream. At most ``MAX_IN_FLIGHT`` items a worker are in flight or wait for the reader.
    """

    def __init__(
        self,
        pool: StreamingPool,
        method: str,
        inputs: Iterable[T] | Stream[T],
        args: tuple[Any, ...],
        on_give_up: OnGiveUp[T] | None,
    ) -> None:
        self._pool = pool
        self._method = method
        self._args = args
        self._on_give_up = on_give_up
        self._upstream = inputs if isinstance(inputs, Stream) else None
        self._inputs: Iterator[T] = iter(()) if isinstance(inputs, Stream) else iter(inputs)
        self._exhausted = False
        self.over = False
        self._retries: deque[WorkItem[T]] = deque()
        self._done: deque[tuple[T, ObjectRef[Any]]] = deque()

    def __next__(self) -> tuple[T, ObjectRef[Any]]:
        while True:
            self._advance()
            if self._done:
                return self._take()
            if self._is_over():
                raise StopIteration
            self._wait()

    def values(self) -> Iterator[tuple[T, Any]]:
        """Iterates over inputs and results instead of references; recomputes results that were lost with a node."""
        for key, reference in self:
            try:
                value = ray.get(reference)
            except ObjectLostError as error:
                self._restart(key, error)
            else:
                yield key, value

    def backlog(self) -> int:
        """Items that are waiting for a worker, as far as known."""
        waiting = len(self._upstream._done) if self._upstream else length_hint(self._inputs)
        return len(self._retries) + waiting

    def wants_workers(self) -> bool:
        """Whether there are items for another worker, and the results are taken."""
        return not self.over and self.backlog() > 0 and not self._is_full()

    def _advance(self) -> None:
        """Does everything that needs no waiting."""
        if self._upstream:
            self._upstream._advance()
        if not self._is_over():
            self._pool.poll()
            self._collect()
            self._feed()

    def _take(self) -> tuple[T, ObjectRef[Any]]:
        result = self._done.popleft()
        self._feed()
        return result

    def _is_over(self) -> bool:
        # Once over, the stream may no longer ask for the pool's slots, which another stream may use.
        self.over = self.over or (self._exhausted and not (self._retries or self._done or self._num_in_flight()))
        return self.over

    def _num_in_flight(self) -> int:
        return sum(len(slot.in_flight) for slot in self._pool.slots_of(self))

    def _wait(self) -> None:
        if pending := self._pending():
            ray.wait(pending, timeout=POLL_S, fetch_local=False)
        else:
            time.sleep(POLL_S / 10)

    def _pending(self) -> list[ObjectRef[Any]]:
        if self._is_over():
            return []
        own = [reference for slot in self._pool.slots_of(self) for reference in slot.pending]
        return own + (self._upstream._pending() if self._upstream else [])

    def _collect(self) -> None:
        for slot in self._pool.slots_of(self):
            while slot.in_flight and is_done(slot.in_flight[0].receipt):
                self._complete(slot)

    def _complete(self, slot: WorkerSlot) -> None:
        """Handles the outcome of a slot's first task, which has ended."""
        item = slot.in_flight[0].item
        try:
            ray.get(slot.in_flight[0].receipt)
        except ObjectLostError as error:
            slot.complete()
            self._restart(item.key, error)
        except RayTaskError as error:
            slot.complete()
            if not isinstance(error.cause, ObjectLostError):
                raise worker_error(self._pool.name, f"{item.key} failed in {self._method}", error) from error
            self._restart(item.key, error.cause)
        except DEATHS as error:
            self._on_worker_death(slot, error)
        else:
            self._done.append((item.key, slot.complete().result))
            self._pool.usage.done += getattr(item.key, "samples", 1)
            slot.deaths = 0

    def _on_worker_death(self, slot: WorkerSlot, error: Exception) -> None:
        """Retries a dead worker's items; the death counts against the one that was running, not the queued ones."""
        self._pool.replace(slot, error)
        running, *queued = [task.item for task in slot.in_flight]
        slot.in_flight.clear()
        running.deaths += 1
        self._retries.extendleft(reversed(queued))
        if running.deaths < MAX_DEATHS:
            self._retry(running, f"its {self._pool.name} died")
        else:
            self._give_up(running, error)

    def _give_up(self, item: WorkItem[T], error: Exception) -> None:
        what = f"{item.key} was given up after {item.deaths} workers; the last"
        failure = worker_error(self._pool.name, what, error)
        if self._on_give_up is None:
            raise failure from error
        self._pool.usage.failed += 1
        self._on_give_up(item.key, failure)

    def _restart(self, key: T, error: Exception) -> None:
        """Restarts an input at the first pool: its result was lost with a node, which no item is blamed for."""
        self.over = self._exhausted = False
        if self._upstream:
            self._upstream._restart(key, error)
        else:
            self._retry(WorkItem(key, key), first_line(error))

    def _retry(self, item: WorkItem[T], reason: str) -> None:
        self._pool.usage.retried += 1
        logger.warning("retrying %s: %s", item.key, reason)
        self._retries.append(item)

    def _feed(self) -> None:
        """Submits items: first retries, then new ones."""
        slots = self._pool.slots_of(self)
        for item in [self._retries.popleft() for _ in range(len(self._retries))]:
            self._submit(item, slots)
        while not self._retries and not self._is_full():
            item = self._next_item() if any(slot.accepts() for slot in slots) else None
            if item is None:
                return
            self._submit(item, slots)

    def _is_full(self) -> bool:
        slots = self._pool.slots_of(self)
        return len(self._done) + self._num_in_flight() >= MAX_IN_FLIGHT * max(1, len(slots))

    def _submit(self, item: WorkItem[T], slots: Sequence[WorkerSlot]) -> None:
        """Submits an item to the least busy worker that accepts it, or puts it back."""
        free = [slot for slot in slots if slot.accepts(item)]
        for slot in free:
            if not slot.recently_alive:
                slot.set_up("__ray_ready__")
        free = [slot for slot in free if slot.ready]
        if free:
            min(free, key=lambda slot: len(slot.in_flight)).submit(item, self._method, self._args)
        else:
            self._retries.append(item)

    def _next_item(self) -> WorkItem[T] | None:
        if self._upstream is None:
            for value in self._inputs:
                return WorkItem(value, value)
            self._exhausted = True
        elif self._upstream._done:
            return WorkItem(*self._upstream._take())
        else:
            self._exhausted = self._upstream._is_over()
        return None
