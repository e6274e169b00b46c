"""A stream of tasks through a pool: bounded, in the order in which they finish, each input exactly once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import length_hint
from typing import Any, TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import ObjectLostError, RayTaskError

from actors.pools.protocol import StreamingPool
from actors.pools.worker_slot import DEATHS, WorkerSlot, WorkItem, first_line, is_done
from tangoflux.errors import TangoFluxError

T = TypeVar("T")

ANY: WorkItem[None] = WorkItem(None, None)
"""Stands for a task that has not been taken yet."""

MAX_IN_FLIGHT = 2
"""Tasks an actor has at once: one that runs, and one that waits so that the actor never waits for the driver."""

MAX_DEATHS = 3
"""So many workers a task may end before it is given up."""

POLL_S = 1.0
"""Longest wait before a stream looks at what no reference tells it: back-off and start-up times."""


OnGiveUp = Callable[[T, TangoFluxError], None]
"""Takes an input that was given up, and why."""


class Stream(Iterator[tuple[T, ObjectRef[Any]]]):
    """The results of one method for many inputs, as they finish; made by ``Pool.stream``.

    Nothing runs in the background: every request for a result also lands what has finished and hands out new tasks,
    here and in the streams before. At most ``MAX_IN_FLIGHT`` tasks an actor are given out or not yet taken.
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
        self._advance()
        while not self._done:
            if self._is_over():
                raise StopIteration
            self._wait()
            self._advance()
        return self._take()

    def values(self) -> Iterator[tuple[T, Any]]:
        """As the iterator, but the results themselves; one that was lost with its node is made again."""
        for key, reference in self:
            try:
                value = ray.get(reference)
            except ObjectLostError as error:
                self._make_again(key, error)
            else:
                yield key, value

    def backlog(self) -> int:
        """Inputs that could be worked on now and are not, as far as it is known."""
        waiting = len(self._upstream._done) if self._upstream else length_hint(self._inputs)
        return len(self._retries) + waiting

    def _advance(self) -> None:
        """Does all that needs no waiting."""
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
        self.over = self.over or (self._exhausted and not (self._retries or self._done or self._in_flight()))
        return self.over

    def _in_flight(self) -> int:
        return sum(len(slot.in_flight) for slot in self._pool.slots_of(self))

    def _wait(self) -> None:
        pending = self._pending()
        if pending:
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
            self._pool.end_if_hung(slot)

    def _complete(self, slot: WorkerSlot) -> None:
        """Takes in the first task of a slot, which is over."""
        task = slot.in_flight[0].task
        try:
            ray.get(slot.in_flight[0].receipt)
        except ObjectLostError as error:
            slot.complete()
            self._make_again(task.key, error)
        except RayTaskError as error:
            slot.complete()
            if not isinstance(error.cause, ObjectLostError):
                raise self._pool.error(f"{task.key} failed in {self._method}", error) from error
            self._make_again(task.key, error.cause)
        except DEATHS as error:
            self._on_worker_death(slot, error)
        else:
            self._done.append((task.key, slot.complete().result))
            self._pool.record_done(task)
            slot.deaths = 0

    def _on_worker_death(self, slot: WorkerSlot, error: Exception) -> None:
        """An actor died: the task that it ran is charged with it, those that waited behind are not."""
        self._pool.on_death(slot, error)
        running, *queued = [task.task for task in slot.in_flight]
        slot.in_flight.clear()
        running.deaths += 1
        self._retries.extendleft(reversed(queued))
        if running.deaths < MAX_DEATHS:
            self._pool.record_retry(running.key, f"its {self._pool.name} died")
            self._retries.append(running)
            return
        failure = self._pool.error(f"{running.key} was given up after {running.deaths} workers; the last", error)
        if self._on_give_up is None:
            raise failure from error
        self._pool.record_failed()
        self._on_give_up(running.key, failure)

    def _make_again(self, key: T, error: Exception) -> None:
        """A result was lost with the node that held it: its input starts again at the first pool, without blame."""
        self.over = self._exhausted = False
        if self._upstream:
            self._upstream._make_again(key, error)
        else:
            self._pool.record_retry(key, first_line(error))
            self._retries.append(WorkItem(key, key))

    def _feed(self) -> None:
        """Hands out tasks: first those to try again, then new ones."""
        slots = self._pool.slots_of(self)
        for task in [self._retries.popleft() for _ in range(len(self._retries))]:
            self._hand_out(task, slots)
        while not self._retries and len(self._done) + self._in_flight() < MAX_IN_FLIGHT * len(slots):
            task = self._next_task() if any(slot.accepts(ANY, MAX_IN_FLIGHT) for slot in slots) else None
            if task is None:
                return
            self._hand_out(task, slots)

    def _hand_out(self, task: WorkItem[T], slots: Sequence[WorkerSlot]) -> None:
        """To the actor that has the least to do, or back to those that wait."""
        free = [slot for slot in slots if slot.accepts(task, MAX_IN_FLIGHT)]
        for slot in free:
            if not slot.recently_alive:
                slot.set_up("__ray_ready__")
        free = [slot for slot in free if slot.ready]
        if free:
            min(free, key=lambda slot: len(slot.in_flight)).submit(task, self._method, self._args)
        else:
            self._retries.append(task)

    def _next_task(self) -> WorkItem[T] | None:
        if self._upstream is None:
            for value in self._inputs:
                return WorkItem(value, value)
            self._exhausted = True
        elif self._upstream._done:
            return WorkItem(*self._upstream._take())
        else:
            self._exhausted = self._upstream._is_over()
        return None
