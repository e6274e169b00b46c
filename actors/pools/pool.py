"""Pools of Ray actors that run streams of work items and replace workers that die.

    scored = rewards.stream("score", rollouts.stream("sample", chunks))
    for chunk, reference in scored:
        write(ray.get(reference))

Results pass from one pool to the next as references, never through the driver. A slow reader slows down everything
upstream. All of it runs in the driver's one thread, whenever the last stream is asked for a result.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.cluster.nodes import has_place
from actors.options.pool_size import PoolSize
from actors.pools.places import SHARE_S, Places
from actors.pools.status import PoolStatus, Usage
from actors.pools.stream import POLL_S, OnGiveUp, Stream
from actors.pools.worker_slot import (
    DEATHS,
    MAX_IN_FLIGHT,
    START_TIMEOUT_S,
    WorkerError,
    WorkerSlot,
    drain,
    first_line,
    is_done,
    worker_error,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FAILED_STARTS = 3
"""Consecutive workers of a slot that may die before they are ready."""

IDLE_S = 20.0
"""Idle time after which an elastic pool ends a worker."""


class Pool:
    """Actors of one class. They start in the background; ``release`` ends them and the next stream starts new ones.

    Ray itself restarts and retries nothing: how a replacement is set up and what happens to a dead worker's items is
    decided here. One stream at a time: a new one abandons what the last has not completed.

    Attributes:
        name: what errors and logs call the workers.
        size: requested number of workers.
        target: workers that the pool wants now, within ``size``.
        usage: counts since the pool was created.
        on_poll: called whenever the pool is polled, if set.
        neighbours: pools whose idle workers make room for this one's; see ``share_places``.
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
            args: arguments of each actor's constructor.
            size: number of workers; a range grows with the backlog and shrinks when workers are idle.
            resources: options of each actor, such as ``{"num_cpus": 1, "num_gpus": 0}``.
            name: what errors and logs call the workers, such as "rollout worker".
            start_timeout_s: seconds without any ready worker after which a stream gives up.
            task_timeout_s: seconds after which a worker without an answer counts as hung and is replaced; 0: never.
        """
        self.name = name
        self.size = size
        self.target = size.least
        self.usage = Usage()
        self.on_poll: Callable[[], None] | None = None
        self.neighbours: Sequence[Pool] = ()
        self._actor_class = actor_class.options(max_restarts=0, max_task_retries=0, **resources)
        self._args = args
        self._start_timeout_s = start_timeout_s
        self._task_timeout_s = task_timeout_s
        self._slots: list[WorkerSlot] = []
        self._broadcasts: dict[str, tuple[Any, ...]] = {}
        self._stream: Stream[Any] | None = None
        self._last_ready = 0.0
        self._places = Places(name, resources)
        self._released = False
        self.ensure()

    def ensure(self) -> None:
        """Starts missing workers without waiting for them."""
        self._last_ready = time.monotonic()
        self._released = False
        self.poll()

    def resize(self, size: PoolSize) -> None:
        """Changes the number of workers. Workers that are removed complete the items they have."""
        self.size = size
        self.target = size.nearest(self.target)

    def release(self) -> None:
        """Ends all workers and frees their resources. ``ensure``, or the next stream, starts new ones."""
        for slot in self._slots:
            slot.kill()
        self._slots = []
        self._stream = None
        self._places.given_up = 0
        self._released = True

    def close(self) -> None:
        """Releases the pool and its broadcasts, so that their objects are freed."""
        self.release()
        self._broadcasts = {}

    def broadcast(self, method: str, *args: Any) -> None:
        """Calls a method of every worker and waits for those that are ready.

        Workers that start later call it during their set-up: the last broadcast of each method. Pass large arguments as
        references (``ray.put``).

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
        """Calls ``method(input, *args)`` on some worker for each input, and yields results as they complete.

        Args:
            inputs: values, or another pool's stream, whose results are the inputs while it continues to run.
            on_give_up: called with an input that ended three workers; the stream then continues without it.

        Returns:
            an iterator of (input, reference of its result); in a chain, of the first stream's inputs. Its ``next``
            raises WorkerError, or the worker's own TangoFluxError, if an item raises, or if it ends three workers and
            there is no ``on_give_up``.
        """
        self.ensure()
        for slot in self._slots:
            slot.in_flight.clear()
        self._stream = Stream(self, method, inputs, args, on_give_up)
        return self._stream

    def status(self) -> PoolStatus:
        """The current status."""
        usage, ready = self.usage, [slot for slot in self._slots if slot.ready]
        return PoolStatus(
            size=str(self.size),
            target=0 if self._released else self.target,
            ready=len(ready),
            pending=len(self._slots) - len(ready),
            busy=sum(bool(slot.in_flight) for slot in ready),
            queued=self._backlog(),
            deaths=usage.deaths,
            retried=usage.retried,
            failed=usage.failed,
            done=usage.done,
            per_second=usage.done / usage.seconds if usage.seconds else 0.0,
            idle_share=1 - usage.busy / usage.ready if usage.ready else 0.0,
        )

    def slots_of(self, stream: Stream[Any]) -> list[WorkerSlot]:
        """All slots, for the pool's current stream."""
        if self._stream is not stream:
            raise RuntimeError(f"this stream of the {self.name}s was ended by another one or by release()")
        return self._slots

    def poll(self) -> None:
        """Starts workers that are due, and detects those that became ready, hang or died during set-up.

        Raises:
            WorkerError: a worker cannot start, or none was ready for ``start_timeout_s``.
        """
        if self.on_poll:
            self.on_poll()
        if self._released:
            return
        self._resize_to_load()
        for slot in self._slots:
            self._poll_slot(slot)
        self.usage.update(self._slots, self._stream is not None and not self._stream.over)
        if any(slot.ready for slot in self._slots):
            self._last_ready = time.monotonic()
            self._places.found()
        else:
            self._await_first_worker(time.monotonic() - self._last_ready)

    def replace(self, slot: WorkerSlot, error: Exception) -> None:
        """Clears the slot of a dead worker; a replacement starts after a back-off.

        Raises:
            WorkerError: the constructor raised, or too many workers died before they were ready.
        """
        if isinstance(error, RayActorError) and error.actor_init_failed:
            raise worker_error(self.name, "could not start", error) from error
        slot.clear()
        self.usage.deaths += 1
        if slot.failed_starts >= MAX_FAILED_STARTS:
            what = f"died {slot.failed_starts} times in a row before it was ready"
            raise worker_error(self.name, what, error) from error
        logger.warning("a %s died and is replaced: %s", self.name, first_line(error))

    def give_up_place(self) -> bool:
        """Ends a worker that has nothing to do, so that another pool's can start; returns whether there was one."""
        idle = [slot for slot in self._slots if slot.ready and not slot.recently_alive]
        if self._wants_workers() or not idle:
            return False
        # Those that are not ready would take the place at once.
        leaving = idle[:1] + [slot for slot in self._slots if not slot.ready]
        for slot in leaving:
            slot.kill()
            self._slots.remove(slot)
        self._places.give_up(len(leaving))
        return True

    def _await_first_worker(self, waited_s: float) -> None:
        """Asks the neighbours for a place, says what is waited for, and at last gives up."""
        if waited_s > self._start_timeout_s:
            raise WorkerError(f"no {self.name} was ready within {self._start_timeout_s:g} s: {self._places.shortage()}")
        if waited_s < SHARE_S or not self._wants_workers() or not self._places.is_due():
            return
        if any(slot.actor and has_place(slot.actor) for slot in self._slots):
            return  # it is starting
        if giver := next((pool for pool in self.neighbours if pool.give_up_place()), None):
            logger.warning("an idle %s ends, as no %s has a place", giver.name, self.name)
        else:
            self._places.tell(waited_s)

    def _take_place_back(self) -> None:
        """Takes back a place that was given up when one is free, or when there is work and no worker left."""
        is_waiting = self._slots and not any(slot.ready for slot in self._slots)
        if self._places.given_up and not is_waiting and self._places.is_due():
            self._places.given_up -= (not self._slots and self._wants_workers()) or self._places.is_free()

    def _wants_workers(self) -> bool:
        return self._stream is not None and self._stream.wants_workers()

    def _poll_slot(self, slot: WorkerSlot) -> None:
        if slot.actor is None:
            if time.monotonic() >= slot.start_at:
                slot.start(self._actor_class.remote(*self._args), self._broadcasts.items())
        elif slot.is_hung(self._task_timeout_s):
            logger.warning("a %s did not answer for %.0f s and is killed", self.name, slot.seconds_waited())
            slot.kill()  # its death is then detected as any other
        elif slot.setup and not slot.in_flight and is_done(slot.setup[-1]):  # else the stream detects a death
            self._finish_setup(slot)

    def _finish_setup(self, slot: WorkerSlot) -> None:
        try:
            ray.get(slot.setup)
        except RayTaskError as error:
            raise worker_error(self.name, "set-up failed", error) from error
        except DEATHS as error:
            self.replace(slot, error)
        else:
            slot.set_ready()

    def _backlog(self) -> int:
        return self._stream.backlog() if self._stream else 0

    def _resize_to_load(self) -> None:
        """Sets the target by backlog and idleness, and the number of slots by the target."""
        now = time.monotonic()
        busy = [slot for slot in self._slots if slot.in_flight]
        idle = [slot for slot in self._slots if slot.ready and not slot.in_flight and now - slot.busy_since > IDLE_S]
        needed = len(busy) + math.ceil(self._backlog() / MAX_IN_FLIGHT)
        self.target = self.size.nearest(max(needed, self.target - len(idle)))
        self._take_place_back()
        staying = sum(not slot.draining for slot in self._slots)
        self._slots += [WorkerSlot() for _ in range(self.target - self._places.given_up - staying)]
        drain(self._slots, self.target)


def share_places(*pools: Pool) -> None:
    """Lets idle workers of each pool make room for the others' when the cluster has become too small for all."""
    for pool in pools:
        pool.neighbours = [other for other in pools if other is not pool]
