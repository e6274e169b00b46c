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
from actors.pools.stream import MAX_IN_FLIGHT, POLL_S, OnGiveUp, Stream
from actors.pools.worker_slot import DEATHS, START_TIMEOUT_S, WorkerError, WorkerSlot, WorkItem, first_line, is_done
from tangoflux.errors import TangoFluxError

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FAILED_STARTS = 3
"""So many actors of a slot may die, one after another, before they are ready."""


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
        start_timeout_s: float = START_TIMEOUT_S,
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
        self.on_poll: Callable[[], None] | None = None
        self._actor_class = actor_class.options(max_restarts=0, max_task_retries=0, **resources)
        self._args = args
        self._resources = dict(resources)
        self._start_timeout_s = start_timeout_s
        self._task_timeout_s = task_timeout_s
        self._slots: list[WorkerSlot] = []
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
        self.poll()

    def resize(self, size: PoolSize) -> None:
        """Asks for another number of actors. Those that leave finish the tasks that they were given."""
        self.size = size
        self.target = size.nearest(self.target)

    def release(self) -> None:
        """Gives all actors and their resources back. ``ensure``, or the next stream, starts new ones."""
        for slot in self._slots:
            if slot.actor is not None:
                ray.kill(slot.actor)
        self._slots = []
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
        for slot in self._slots:
            if slot.actor is not None:
                slot.set_up(method, *args)
        while waiting := [slot for slot in self._slots if slot.was_ready and slot.setup and not slot.in_flight]:
            ray.wait([slot.setup[-1] for slot in waiting], timeout=POLL_S, fetch_local=False)
            self.poll()

    def stream(
        self, method: str, inputs: Iterable[T] | Stream[T], *args: Any, on_give_up: OnGiveUp[T] | None = None
    ) -> Stream[T]:
        """Calls ``method(input, *args)`` for each input on some actor, and gives the results as they finish.

        Args:
            inputs: values, or another pool's stream, whose results are then the inputs while it keeps on running.
            on_give_up: takes an input that ended three workers, and the stream goes on without it.

        Returns:
            an iterator of (input, reference of its result); in a chain, of the first stream's inputs. Its ``next``
            raises WorkerError, or the worker's own TangoFluxError, when a task raises, or ends three workers and there
            is no ``on_give_up``.
        """
        self.ensure()
        for slot in self._slots:
            slot.in_flight.clear()
        self._stream = Stream(self, method, inputs, args, on_give_up)
        return self._stream

    def status(self) -> PoolStatus:
        """How the pool is now."""
        usage, ready = self._usage, [slot for slot in self._slots if slot.ready]
        return PoolStatus(
            size=str(self.size),
            target=0 if self._released else self.target,
            ready=len(ready),
            pending=len(self._slots) - len(ready),
            busy=sum(bool(slot.in_flight) for slot in ready),
            queued=self._stream.backlog() if self._stream else 0,
            deaths=usage.deaths,
            redone=usage.redone,
            failed=usage.failed,
            done=usage.done,
            per_second=usage.done / usage.seconds if usage.seconds else 0.0,
            idle_share=1 - usage.busy / usage.ready if usage.ready else 0.0,
        )

    # The rest is for the pool's stream.

    def slots_of(self, stream: Stream[Any]) -> list[WorkerSlot]:
        """All slots, if the pool still works for this stream."""
        if self._stream is not stream:
            raise RuntimeError(f"this stream of the {self.name}s was ended by another one or by release()")
        return self._slots

    def poll(self) -> None:
        """Starts actors whose time has come, and notices those that became ready or died before that.

        Raises:
            WorkerError: an actor cannot start, or none was ready for ``start_timeout_s``.
        """
        if self.on_poll:
            self.on_poll()
        if self._released:
            return
        self._resize_to_load()
        for slot in self._slots:
            if slot.actor is None and time.monotonic() >= slot.start_at:
                slot.start(self._actor_class.remote(*self._args), self._broadcasts.items())
            elif slot.setup and not slot.in_flight:  # with in_flight the stream finds what became of the actor
                self._look_at_setup(slot)
        self._usage.note(self._slots, self._stream is not None and not self._stream.over)
        if any(slot.ready for slot in self._slots):
            self._alive_at = time.monotonic()
        elif time.monotonic() - self._alive_at > self._start_timeout_s:
            raise WorkerError(
                f"no {self.name} was ready within {self._start_timeout_s:g} s: each needs {self._resources}, "
                f"free in the cluster: {ray.available_resources()}; ask for less or add nodes"
            )

    def record_done(self, item: WorkItem[Any]) -> None:
        """Counts a work item that is done."""
        self._usage.done += getattr(item.key, "samples", 1)

    def record_retry(self, key: object, why: str) -> None:
        """Counts and tells a task that is begun again."""
        self._usage.redone += 1
        logger.warning("%s is done again: %s", key, why)

    def record_failed(self) -> None:
        """Counts a task that was set aside."""
        self._usage.failed += 1

    def end_if_hung(self, slot: WorkerSlot) -> None:
        """Ends the actor of a task that takes too long; its death is then found as any other is."""
        seconds = time.monotonic() - slot.busy_since
        if slot.in_flight and 0 < self._task_timeout_s < seconds:
            self._end_silent(slot, seconds)

    def on_death(self, slot: WorkerSlot, error: Exception) -> None:
        """Empties the slot of a dead actor; a replacement starts after a back-off.

        Raises:
            WorkerError: the constructor raised, or too many actors died before they were ready.
        """
        if isinstance(error, RayActorError) and error.actor_init_failed:
            raise self.error("could not start", error) from error
        slot.empty()
        self._usage.deaths += 1
        if slot.failed_starts >= MAX_FAILED_STARTS:
            raise self.error(f"died {slot.failed_starts} times in a row before it was ready", error) from error
        logger.warning("a %s died and is replaced: %s", self.name, first_line(error))

    def error(self, what: str, error: Exception) -> TangoFluxError:
        """The error to raise: the worker's own where that is a clear one, else one line that says what happened."""
        if isinstance(error, RayTaskError) and isinstance(error.cause, TangoFluxError):
            return error.cause
        return WorkerError(f"{self.name}: {what}: {first_line(error)}")

    def _resize_to_load(self) -> None:
        """Sets the target by backlog and idleness, and the slots by the target."""
        now = time.monotonic()
        busy = [slot for slot in self._slots if slot.in_flight]
        rested = [slot for slot in self._slots if slot.ready and not slot.in_flight and now - slot.busy_since > IDLE_S]
        backlog = self._stream.backlog() if self._stream else 0
        needed = len(busy) + math.ceil(backlog / MAX_IN_FLIGHT)
        self.target = self.size.nearest(max(needed, self.target - len(rested)))
        staying = [slot for slot in self._slots if not slot.draining]
        self._slots += [WorkerSlot() for _ in range(self.target - len(staying))]
        # The one that has least to lose leaves first: one that has not started, then one without tasks.
        staying.sort(key=lambda slot: (slot.ready, len(slot.in_flight)))
        for slot in staying[: max(0, len(staying) - self.target)]:
            slot.draining = True
        for slot in [slot for slot in self._slots if slot.draining and not slot.in_flight]:
            if slot.actor is not None:
                ray.kill(slot.actor)
            self._slots.remove(slot)

    def _look_at_setup(self, slot: WorkerSlot) -> None:
        """Ends a set-up that is over, and an actor that hangs in it."""
        if is_done(slot.setup[-1]):
            self._end_setup(slot)
        elif 0 < self._task_timeout_s < slot.seconds_of_setup():
            self._end_silent(slot, slot.seconds_of_setup())

    def _end_silent(self, slot: WorkerSlot, seconds: float) -> None:
        logger.warning("a %s gave no answer for %.0f s and is ended", self.name, seconds)
        ray.kill(slot.actor)

    def _end_setup(self, slot: WorkerSlot) -> None:
        try:
            ray.get(slot.setup)
        except RayTaskError as error:
            raise self.error("set-up failed", error) from error
        except DEATHS as error:
            self.on_death(slot, error)
        else:
            slot.set_ready()
