"""Sends the ranks' events to the driver, in order, through an actor, so that no shared disk is needed."""

from __future__ import annotations

from typing import Any

import ray

Event = dict[str, Any]


class Mailbox:
    """Events that the driver has not read yet, and the ranks, which it kills if there are no events for too long."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._ranks: list[Any] = []

    def enrol(self, rank: Any) -> None:
        """Adds a rank's actor handle."""
        self._ranks.append(rank)

    def put(self, events: list[Event]) -> None:
        """Adds events."""
        self._events += events

    def take(self) -> tuple[list[Event], list[Any]]:
        """The events since the last call, and the ranks that have started."""
        events, self._events = self._events, []
        return events, self._ranks


MailboxActor = ray.remote(Mailbox)


class EventLog:
    """All events of a training. Checkpoints store them, so that none is lost if the driver dies before reading them."""

    def __init__(self, mailbox: Any = None) -> None:
        """Starts an empty log.

        Args:
            mailbox: handle of the actor that receives the events; None: they are only kept here.
        """
        self.events: list[Event] = []
        self._mailbox = mailbox
        self._receipt: Any = None

    def write(self, *events: Event) -> None:
        """Adds events, once the mailbox has the earlier ones.

        Raises:
            ray.exceptions.RayActorError: the mailbox is gone, and so is the driver.
        """
        self.flush()
        self.events += events
        if self._mailbox is not None and events:
            self._receipt = self._mailbox.put.remote(list(events))

    def flush(self) -> None:
        """Waits until all events are in the mailbox."""
        if self._receipt is not None:
            ray.get(self._receipt)
