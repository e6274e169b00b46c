"""Pools of Ray actors that work through streams of inputs and replace the actors that die.

    scored = rewards.stream("score", rollouts.stream("sample", chunks))
    for chunk, reference in scored:
        write(ray.get(reference))

Results pass from one pool to the next as references, and never through the driver. A slow reader slows down what
comes before it. All of it happens in the driver's one thread, whenever the last stream is asked for a result.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.options.pool_size import PoolSize
from actors.pools.status import PoolStatus, Usage
from actors.pools.stream import MAX_IN_FLIGHT, POLL_S, SetAside, Stream
from actors.pools.worker_slot import DEATHS, START_S, Seat, Task, WorkerError, first_line, is_over
from tangoflux.errors import TangoFluxError

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FAILED_STARTS = 3
"""So many actors of a seat may die, one after another, before they are ready."""


IDLE_S = 20.0
"""An actor of an elastic pool that had nothing to do for so long is given back."""


class Pool:
    """Actors of one class. They start at once, in the background, and can be given back and taken again.

    Ray itself restarts and retries nothing: what a new actor must know, and what becomes of a dead one's tasks, is
    decided here. One stream at a time: a new one abandons what the last has not finished.
    """

    def __init__(
        self,
        actor_class: Any,
        args: Sequence[Any],
        size: PoolSize,
        resources: Mapping[str, Any],
        name: str,
        start_timeout_s: float = START_S,
        task_timeout_s: float = 0.0,
    ) -> None:
        """Starts the pool.

        Args:
            actor_class: ``ray.remote(SomeClass)``.
            args: what each actor is made with.
            size: number of actors; in a range the pool grows with its backlog, and shrinks when actors are idle.
            resources: options of each actor, such as ``{"num_cpus": 1, "num_gpus": 0}``.
            name: what errors and logs call its actors, such as "rollout worker".
            start_timeout_s: seconds without any ready actor after which a stream gives up.
            task_timeout_s: seconds of a task after which its actor is taken for hung and ended; 0: never.
        """
        self.name = name
        self.size = size
        self.target = size.least
        self.on_tend: Callable[[], None] | None = None
        self._actor_class = actor_class.options(max_restarts=0, max_task_retries=0, **resources)
        self._args = args
        self._resources = dict(resources)
        self._start_timeout_s = start_timeout_s
        self._task_timeout_s = task_timeout_s
        self._seats: list[Seat] = []
        self._broadcasts: dict[str, tuple[Any, ...]] = {}
        self._stream: Stream[Any] | None = None
        self._alive_at = 0.0
        self._released = False
        self._usage = Usage()
        self.ensure()

    def ensure(self) -> None:
        """Starts the actors that are missing; does not wait for them."""
        self._alive_at = time.monotonic()
        self._released = False
        self.tend()

    def resize(self, size: PoolSize) -> None:
        """Asks for another number of actors. Those that leave finish the tasks that they were given."""
        self.size = size
        self.target = size.nearest(self.target)

    def release(self) -> None:
        """Gives all actors and their resources back. ``ensure``, or the next stream, starts new ones."""
        for seat in self._seats:
            if seat.actor is not None:
                ray.kill(seat.actor)
        self._seats = []
        self._stream = None
        self._released = True

    def close(self) -> None:
        """As ``release``, and forgets what was broadcast, so that its objects are freed."""
        self.release()
        self._broadcasts = {}

    def broadcast(self, method: str, *args: Any) -> None:
        """Calls a method of every actor and waits for those that are ready.

        Actors that become ready later have called it too: of each method the last broadcast counts. Pass large
        arguments as references (``ray.put``).

        Raises:
            WorkerError: the method raised.
        """
        self._broadcasts.pop(method, None)
        self._broadcasts[method] = args
        for seat in self._seats:
            if seat.actor is not None:
                seat.set_up(method, *args)
        while waiting := [seat for seat in self._seats if seat.was_ready and seat.setup and not seat.flights]:
            ray.wait([seat.setup[-1] for seat in waiting], timeout=POLL_S, fetch_local=False)
            self.tend()

    def stream(
        self, method: str, inputs: Iterable[T] | Stream[T], *args: Any, set_aside: SetAside[T] | None = None
    ) -> Stream[T]:
        """Calls ``method(input, *args)`` for each input on some actor, and gives the results as they finish.

        Args:
            inputs: values, or another pool's stream, whose results are then the inputs while it keeps on running.
            set_aside: takes an input that ended three workers, and the stream goes on without it.

        Returns:
            an iterator of (input, reference of its result); in a chain, of the first stream's inputs. Its ``next``
            raises WorkerError, or the worker's own TangoFluxError, when a task raises, or ends three workers and there
            is no ``set_aside``.
        """
        self.ensure()
        for seat in self._seats:
            seat.flights.clear()
        self._stream = Stream(self, method, inputs, args, set_aside)
        return self._stream

    def status(self) -> PoolStatus:
        """How the pool is now."""
        usage, ready = self._usage, [seat for seat in self._seats if seat.ready]
        return PoolStatus(
            size=str(self.size),
            target=0 if self._released else self.target,
            ready=len(ready),
            pending=len(self._seats) - len(ready),
            busy=sum(bool(seat.flights) for seat in ready),
            queued=self._stream.backlog() if self._stream else 0,
            deaths=usage.deaths,
            redone=usage.redone,
            set_aside=usage.set_aside,
            done=usage.done,
            per_second=usage.done / usage.seconds if usage.seconds else 0.0,
            idle_share=1 - usage.busy / usage.ready if usage.ready else 0.0,
        )

    # The rest is for the pool's stream.

    def seats_of(self, stream: Stream[Any]) -> list[Seat]:
        """All seats, if the pool still works for this stream."""
        if self._stream is not stream:
            raise RuntimeError(f"this stream of the {self.name}s was ended by another one or by release()")
        return self._seats

    def tend(self) -> None:
        """Starts actors whose time has come, and notices those that became ready or died before that.

        Raises:
            WorkerError: an actor cannot start, or none was ready for ``start_timeout_s``.
        """
        if self.on_tend:
            self.on_tend()
        if self._released:
            return
        self._fit_to_work()
        for seat in self._seats:
            if seat.actor is None and time.monotonic() >= seat.start_at:
                seat.start(self._actor_class.remote(*self._args), self._broadcasts.items())
            elif seat.setup and not seat.flights:  # with flights the stream finds what became of the actor
                self._look_at_setup(seat)
        self._usage.note(self._seats, self._stream is not None and not self._stream.over)
        if any(seat.ready for seat in self._seats):
            self._alive_at = time.monotonic()
        elif time.monotonic() - self._alive_at > self._start_timeout_s:
            raise WorkerError(
                f"no {self.name} was ready within {self._start_timeout_s:g} s: each needs {self._resources}, "
                f"free in the cluster: {ray.available_resources()}; ask for less or add nodes"
            )

    def landed(self, task: Task[Any]) -> None:
        """Counts a task that is done."""
        self._usage.done += getattr(task.key, "samples", 1)

    def redo(self, key: object, why: str) -> None:
        """Counts and tells a task that is begun again."""
        self._usage.redone += 1
        logger.warning("%s is done again: %s", key, why)

    def gave_up(self) -> None:
        """Counts a task that was set aside."""
        self._usage.set_aside += 1

    def end_hung(self, seat: Seat) -> None:
        """Ends the actor of a task that takes too long; its death is then found as any other is."""
        seconds = time.monotonic() - seat.busy_since
        if seat.flights and 0 < self._task_timeout_s < seconds:
            self._end_silent(seat, seconds)

    def bury(self, seat: Seat, error: Exception) -> None:
        """Empties the seat of a dead actor; a replacement starts after a back-off.

        Raises:
            WorkerError: the constructor raised, or too many actors died before they were ready.
        """
        if isinstance(error, RayActorError) and error.actor_init_failed:
            raise self.error("could not start", error) from error
        seat.empty()
        self._usage.deaths += 1
        if seat.failed_starts >= MAX_FAILED_STARTS:
            raise self.error(f"died {seat.failed_starts} times in a row before it was ready", error) from error
        logger.warning("a %s died and is replaced: %s", self.name, first_line(error))

    def error(self, what: str, error: Exception) -> TangoFluxError:
        """The error to raise: the worker's own where that is a clear one, else one line that says what happened."""
        if isinstance(error, RayTaskError) and isinstance(error.cause, TangoFluxError):
            return error.cause
        return WorkerError(f"{self.name}: {what}: {first_line(error)}")

    def _fit_to_work(self) -> None:
        """Sets the target by backlog and idleness, and the seats by the target."""
        now = time.monotonic()
        busy = [seat for seat in self._seats if seat.flights]
        rested = [seat for seat in self._seats if seat.ready and not seat.flights and now - seat.busy_since > IDLE_S]
        backlog = self._stream.backlog() if self._stream else 0
        needed = len(busy) + math.ceil(backlog / MAX_IN_FLIGHT)
        self.target = self.size.nearest(max(needed, self.target - len(rested)))
        staying = [seat for seat in self._seats if not seat.leaving]
        self._seats += [Seat() for _ in range(self.target - len(staying))]
        # The one that has least to lose leaves first: one that has not started, then one without tasks.
        staying.sort(key=lambda seat: (seat.ready, len(seat.flights)))
        for seat in staying[: max(0, len(staying) - self.target)]:
            seat.leaving = True
        for seat in [seat for seat in self._seats if seat.leaving and not seat.flights]:
            if seat.actor is not None:
                ray.kill(seat.actor)
            self._seats.remove(seat)

    def _look_at_setup(self, seat: Seat) -> None:
        """Ends a set-up that is over, and an actor that hangs in it."""
        if is_over(seat.setup[-1]):
            self._end_setup(seat)
        elif 0 < self._task_timeout_s < seat.seconds_of_setup():
            self._end_silent(seat, seat.seconds_of_setup())

    def _end_silent(self, seat: Seat, seconds: float) -> None:
        logger.warning("a %s gave no answer for %.0f s and is ended", self.name, seconds)
        ray.kill(seat.actor)

    def _end_setup(self, seat: Seat) -> None:
        try:
            ray.get(seat.setup)
        except RayTaskError as error:
            raise self.error("set-up failed", error) from error
        except DEATHS as error:
            self.bury(seat, error)
        else:
            seat.set_ready()
