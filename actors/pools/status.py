"""What a pool tells of itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from actors.pools.worker_slot import WorkerSlot


@dataclass(frozen=True)
class PoolStatus:
    """What a pool is like at a moment.

    Attributes:
        size: as it was asked for.
        target: actors that it wants now; 0 while they are given back.
        ready, pending, busy: actors that can work, that are starting or waiting for a place, and that work.
        queued: tasks that wait for an actor, as far as it is known.
        deaths: actors that died since the run began.
        redone: tasks that were begun again, because their actor died or their result was lost.
        failed: tasks that were given up.
        done: samples since then; of inputs that hold none, the inputs.
        per_second: of these, in the time in which the pool had work.
        idle_share: of the ready actors' time while the pool had work.
    """

    size: str
    target: int
    ready: int
    pending: int
    busy: int
    queued: int
    deaths: int
    redone: int
    failed: int
    done: int
    per_second: float
    idle_share: float


@dataclass
class Usage:
    """Counts since the pool was made; seconds of the pool with work, and of its actors in that time."""

    deaths: int = 0
    redone: int = 0
    failed: int = 0
    done: int = 0
    seconds: float = 0.0
    ready: float = 0.0
    busy: float = 0.0
    noted_at: float = 0.0

    def note(self, slots: Sequence[WorkerSlot], working: bool) -> None:
        """Adds the time since the last note; the slots are taken to have been then as they are now."""
        now = time.monotonic()
        passed, self.noted_at = now - self.noted_at, now
        if working and passed < now:
            self.seconds += passed
            self.ready += passed * sum(slot.ready for slot in slots)
            self.busy += passed * sum(slot.ready and bool(slot.in_flight) for slot in slots)
