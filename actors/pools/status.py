"""The status of a pool, and the counts behind it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from actors.pools.worker_slot import WorkerSlot


@dataclass(frozen=True)
class PoolStatus:
    """The status of a pool at one moment. Counts are since the pool was created.

    Attributes:
        size: requested number of workers, or range.
        target: workers that the pool wants now; 0 while it is released.
        ready, pending, busy: workers that are set up, that start or wait for resources, and that run an item.
        queued: items that are waiting for a worker, as far as known.
        deaths: workers that died.
        retried: items that were started again because their worker died or their result was lost.
        failed: items that were given up.
        done: samples of completed items; an item without samples counts as one.
        per_second: ``done`` divided by the time during which the pool had work.
        idle_share: idle fraction of the ready workers' time while the pool had work, 0 to 1.
    """

    size: str
    target: int
    ready: int
    pending: int
    busy: int
    queued: int
    deaths: int
    retried: int
    failed: int
    done: int
    per_second: float
    idle_share: float


@dataclass
class Usage:
    """Counts since the pool was created; seconds with work, of the pool and summed over its workers."""

    deaths: int = 0
    retried: int = 0
    failed: int = 0
    done: int = 0
    seconds: float = 0.0
    ready: float = 0.0
    busy: float = 0.0
    updated_at: float = 0.0

    def update(self, slots: Sequence[WorkerSlot], working: bool) -> None:
        """Adds the time since the last update, assuming that the slots have not changed since then."""
        now = time.monotonic()
        elapsed, self.updated_at = now - self.updated_at, now
        if working and elapsed < now:
            self.seconds += elapsed
            self.ready += elapsed * sum(slot.ready for slot in slots)
            self.busy += elapsed * sum(slot.ready and bool(slot.in_flight) for slot in slots)
