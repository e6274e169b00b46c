"""What a stream asks of its pool."""

from __future__ import annotations

from typing import Any, Protocol

from actors.pools.worker_slot import WorkerSlot, WorkItem
from tangoflux.errors import TangoFluxError


class StreamingPool(Protocol):
    """A pool as its stream sees it; ``Pool`` is one."""

    name: str
    """What errors and logs call its workers."""

    def slots_of(self, stream: Any) -> list[WorkerSlot]:
        """All slots, if the pool still works for this stream."""
        ...

    def poll(self) -> None:
        """Starts workers that are due, and finds those that became ready or died."""
        ...

    def record_done(self, item: WorkItem[Any]) -> None:
        """Counts a work item that is done."""
        ...

    def record_retry(self, key: object, why: str) -> None:
        """Counts and logs a work item that starts again."""
        ...

    def record_failed(self) -> None:
        """Counts a work item that was given up."""
        ...

    def end_if_hung(self, slot: WorkerSlot) -> None:
        """Ends a worker whose work item exceeds the timeout."""
        ...

    def on_death(self, slot: WorkerSlot, error: Exception) -> None:
        """Empties the slot of a dead worker; a replacement starts after a back-off."""
        ...

    def error(self, what: str, error: Exception) -> TangoFluxError:
        """The error to raise for a failed work item."""
        ...
