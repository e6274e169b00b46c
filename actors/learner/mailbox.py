"""How the ranks' events reach the driver: through Ray, so that no disk is shared, and each in its order."""

from __future__ import annotations

from typing import Any

import ray

Event = dict[str, Any]


class Mailbox:
    """Events that wait for the driver, and the ranks, which the driver ends when none comes for too long."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._ranks: list[Any] = []

    def enrol(self, rank: Any) -> None:
        """Takes a rank's actor handle."""
        self._ranks.append(rank)

    def put(self, events: list[Event]) -> None:
        """Adds events."""
        self._events += events

    def take(self) -> tuple[list[Event], list[Any]]:
        """The events since the last call, and the ranks that have begun."""
        events, self._events = self._events, []
        return events, self._ranks


MailboxActor = ray.remote(Mailbox)


class EventLog:
    """All events of a training; a checkpoint keeps them, so that none is lost with a driver that had not read it."""

    def __init__(self, mailbox: Any = None) -> None:
        """Takes a mailbox's handle, or None where nobody reads on the way."""
        self.events: list[Event] = []
        self._mailbox = mailbox
        self._receipt: Any = None

    def write(self, *events: Event) -> None:
        """Adds events; waits for those before them.

        Raises:
            ray.exceptions.RayActorError: the mailbox is gone, and with it whoever wanted to know.
        """
        self.flush()
        self.events += events
        if self._mailbox is not None and events:
            self._receipt = self._mailbox.put.remote(list(events))

    def flush(self) -> None:
        """Waits until all events are in the mailbox."""
        if self._receipt is not None:
            ray.get(self._receipt)
