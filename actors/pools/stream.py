"""A stream of tasks through a pool: bounded, in the order in which they finish, each input exactly once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import length_hint
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import ObjectLostError, RayTaskError

from actors.pools.worker_slot import DEATHS, Seat, Task, first_line, is_over
from tangoflux.errors import TangoFluxError

if TYPE_CHECKING:
    from actors.pools.pool import Pool

T = TypeVar("T")

ANY: Task[None] = Task(None, None)
"""Stands for a task that has not been taken yet."""

MAX_IN_FLIGHT = 2
"""Tasks an actor has at once: one that runs, and one that waits so that the actor never waits for the driver."""

MAX_DEATHS = 3
"""So many workers a task may end before it is given up."""

POLL_S = 1.0
"""Longest wait before a stream looks at what no reference tells it: back-off and start-up times."""


SetAside = Callable[[T, TangoFluxError], None]
"""Takes an input that was given up, and why."""


class Stream(Iterator[tuple[T, ObjectRef[Any]]]):
    """The results of one method for many inputs, as they finish; made by ``Pool.stream``.

    Nothing runs in the background: every request for a result also lands what has finished and hands out new tasks,
    here and in the streams before. At most ``MAX_IN_FLIGHT`` tasks an actor are given out or not yet taken.
    """

    def __init__(
        self,
        pool: Pool,
        method: str,
        inputs: Iterable[T] | Stream[T],
        args: tuple[Any, ...],
        set_aside: SetAside[T] | None,
    ) -> None:
        self._pool = pool
        self._method = method
        self._args = args
        self._set_aside = set_aside
        self._upstream = inputs if isinstance(inputs, Stream) else None
        self._inputs: Iterator[T] = iter(()) if isinstance(inputs, Stream) else iter(inputs)
        self._exhausted = False
        self.over = False
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
        return len(self._again) + waiting

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
        self.over = self.over or (self._exhausted and not (self._again or self._done or self._flying()))
        return self.over

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
            self._pool.end_hung(seat)

    def _land(self, seat: Seat) -> None:
        """Takes in the first flight of a seat, which is over."""
        task = seat.flights[0].task
        try:
            ray.get(seat.flights[0].receipt)
        except ObjectLostError as error:
            seat.land()
            self._make_again(task.key, error)
        except RayTaskError as error:
            seat.land()
            if not isinstance(error.cause, ObjectLostError):
                raise self._pool.error(f"{task.key} failed in {self._method}", error) from error
            self._make_again(task.key, error.cause)
        except DEATHS as error:
            self._mourn(seat, error)
        else:
            self._done.append((task.key, seat.land().result))
            self._pool.landed(task)
            seat.deaths = 0

    def _mourn(self, seat: Seat, error: Exception) -> None:
        """An actor died: the task that it ran is charged with it, those that waited behind are not."""
        self._pool.bury(seat, error)
        running, *queued = [flight.task for flight in seat.flights]
        seat.flights.clear()
        running.deaths += 1
        self._again.extendleft(reversed(queued))
        if running.deaths < MAX_DEATHS:
            self._pool.redo(running.key, f"its {self._pool.name} died")
            self._again.append(running)
            return
        failure = self._pool.error(f"{running.key} was given up after {running.deaths} workers; the last", error)
        if self._set_aside is None:
            raise failure from error
        self._pool.gave_up()
        self._set_aside(running.key, failure)

    def _make_again(self, key: T, error: Exception) -> None:
        """A result was lost with the node that held it: its input starts again at the first pool, without blame."""
        self.over = self._exhausted = False
        if self._upstream:
            self._upstream._make_again(key, error)
        else:
            self._pool.redo(key, first_line(error))
            self._again.append(Task(key, key))

    def _feed(self) -> None:
        """Hands out tasks: first those to try again, then new ones."""
        seats = self._pool.seats_of(self)
        for task in [self._again.popleft() for _ in range(len(self._again))]:
            self._hand_out(task, seats)
        while not self._again and len(self._done) + self._flying() < MAX_IN_FLIGHT * len(seats):
            task = self._next_task() if any(seat.takes(ANY, MAX_IN_FLIGHT) for seat in seats) else None
            if task is None:
                return
            self._hand_out(task, seats)

    def _hand_out(self, task: Task[T], seats: Sequence[Seat]) -> None:
        """To the actor that has the least to do, or back to those that wait."""
        free = [seat for seat in seats if seat.takes(task, MAX_IN_FLIGHT)]
        for seat in free:
            if not seat.fresh:
                seat.set_up("__ray_ready__")
        free = [seat for seat in free if seat.ready]
        if free:
            min(free, key=lambda seat: len(seat.flights)).fly(task, self._method, self._args)
        else:
            self._again.append(task)

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
