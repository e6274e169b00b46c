"""A stream of tasks through a pool: bounded, in the order in which they finish, each input exactly once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import ObjectLostError, RayTaskError

from actors.seat import DEATHS, Seat, Task, is_over

if TYPE_CHECKING:
    from actors.pool import Pool

T = TypeVar("T")

MAX_IN_FLIGHT = 2
"""Tasks an actor has at once: one that runs, and one that waits so that the actor never waits for the driver."""

MAX_DEATHS = 3
"""So many workers a task may end before it is given up."""

POLL_S = 1.0
"""Longest wait before a stream looks at what no reference tells it: back-off and start-up times."""


class Stream(Iterator[tuple[T, ObjectRef[Any]]]):
    """The results of one method for many inputs, as they finish; made by ``Pool.stream``.

    Nothing runs in the background: every request for a result also lands what has finished and hands out new tasks,
    here and in the streams before. At most ``MAX_IN_FLIGHT`` tasks an actor are given out or not yet taken.
    """

    def __init__(self, pool: Pool, method: str, inputs: Iterable[T] | Stream[T], args: tuple[Any, ...]) -> None:
        self._pool = pool
        self._method = method
        self._args = args
        self._upstream = inputs if isinstance(inputs, Stream) else None
        self._inputs: Iterator[T] = iter(()) if isinstance(inputs, Stream) else iter(inputs)
        self._exhausted = False
        self._over = False
        self._again: deque[Task[T]] = deque()
        self._done: deque[tuple[T, ObjectRef[Any]]] = deque()

    def __next__(self) -> tuple[T, ObjectRef[Any]]:
        self._advance()
        while not self._done:
            if self._is_over():
                raise StopIteration
            self._wait()
            self._advance()
        return self._take()

    def _advance(self) -> None:
        """Does all that needs no waiting."""
        if self._upstream:
            self._upstream._advance()
        if not self._is_over():
            self._pool.tend()
            self._collect()
            self._feed()

    def _take(self) -> tuple[T, ObjectRef[Any]]:
        result = self._done.popleft()
        self._feed()
        return result

    def _is_over(self) -> bool:
        self._over = self._over or (self._exhausted and not (self._again or self._done or self._flying()))
        return self._over

    def _flying(self) -> int:
        return sum(len(seat.flights) for seat in self._pool.seats_of(self))

    def _wait(self) -> None:
        pending = self._pending()
        if pending:
            ray.wait(pending, timeout=POLL_S, fetch_local=False)
        else:
            time.sleep(POLL_S / 10)

    def _pending(self) -> list[ObjectRef[Any]]:
        if self._is_over():
            return []
        own = [reference for seat in self._pool.seats_of(self) for reference in seat.pending]
        return own + (self._upstream._pending() if self._upstream else [])

    def _collect(self) -> None:
        for seat in self._pool.seats_of(self):
            while seat.flights and is_over(seat.flights[0].receipt):
                self._land(seat)

    def _land(self, seat: Seat) -> None:
        """Takes in the first flight of a seat, which is over."""
        flight = seat.flights[0]
        try:
            ray.get(flight.receipt)
        except ObjectLostError as error:
            self._try_again(seat.flights.popleft().task, error)
        except RayTaskError as error:
            raise self._pool.error(f"{flight.task.key} failed in {self._method}", error) from error
        except DEATHS as error:
            self._pool.bury(seat, error)
            while seat.flights:
                self._try_again(seat.flights.popleft().task, error)
        else:
            seat.flights.popleft()
            seat.deaths = 0
            self._done.append((flight.task.key, flight.result))

    def _try_again(self, task: Task[T], error: Exception) -> None:
        # Any of a dead actor's tasks may have ended it: the result of an earlier one can be lost with it. So each is
        # tried again at the head of an idle actor, where no other's death is taken for its own.
        task.deaths += 1
        if task.deaths >= MAX_DEATHS:
            raise self._pool.error(f"{task.key} was given up after {task.deaths} workers; the last", error) from error
        self._again.append(task)

    def _feed(self) -> None:
        """Hands out tasks: first those to try again, each to an idle actor, then new ones."""
        ready = [seat for seat in self._pool.seats_of(self) if seat.ready]
        while self._again:
            idle = [seat for seat in ready if not seat.flights]
            if not idle:
                return
            idle[0].fly(self._again.popleft(), self._method, self._args)
        while len(self._done) + self._flying() < MAX_IN_FLIGHT * self._pool.size:
            free = [seat for seat in ready if len(seat.flights) < MAX_IN_FLIGHT]
            task = self._next_task() if free else None
            if task is None:
                return
            min(free, key=lambda seat: len(seat.flights)).fly(task, self._method, self._args)

    def _next_task(self) -> Task[T] | None:
        if self._upstream is None:
            for value in self._inputs:
                return Task(value, value)
            self._exhausted = True
        elif self._upstream._done:
            return Task(*self._upstream._take())
        else:
            self._exhausted = self._upstream._is_over()
        return None
