"""What a worker slot accepts, and when a replacement starts. The slots here have no actor that could be called."""

from __future__ import annotations

import time
from typing import Any

import pytest

from actors.pools.worker_slot import BACKOFF_S, ISOLATE_AFTER, InFlightTask, WorkerSlot, WorkItem, drain

NEW = WorkItem("new", None)
SUSPECT = WorkItem("ended two workers", None, deaths=ISOLATE_AFTER)


def slot_with(*items: WorkItem[str], **attributes: Any) -> WorkerSlot:
    reference: Any = None
    slot = WorkerSlot(actor=object(), **attributes)
    slot.in_flight.extend(InFlightTask(item, reference, reference) for item in items)
    return slot


def test_a_worker_runs_one_item_and_queues_one() -> None:
    assert slot_with().accepts(NEW) and slot_with().accepts()
    assert slot_with(NEW).accepts(NEW) and slot_with(NEW).accepts()
    assert not slot_with(NEW, NEW).accepts(NEW) and not slot_with(NEW, NEW).accepts()


def test_an_item_that_ended_two_workers_runs_alone() -> None:
    assert slot_with().accepts(SUSPECT)
    assert not slot_with(NEW).accepts(SUSPECT)
    assert not slot_with(SUSPECT).accepts(NEW) and not slot_with(SUSPECT).accepts()
    assert slot_with(WorkItem("ended one", None, deaths=ISOLATE_AFTER - 1)).accepts(NEW)


def test_a_worker_that_drains_is_set_up_or_dead_accepts_nothing() -> None:
    assert not slot_with(draining=True).accepts(NEW)
    assert not slot_with(setup=[None]).accepts(NEW)
    assert not WorkerSlot().accepts(NEW)


def test_of_too_many_workers_those_that_lose_least_end_after_their_items() -> None:
    waiting: list[Any] = [None]
    missing, starting, first, second = WorkerSlot(), WorkerSlot(setup=waiting), slot_with(NEW), slot_with(NEW, NEW)
    slots = [second, first, starting, missing]
    drain(slots, 1)
    assert slots == [second, first] and first.draining and not second.draining


def test_replacements_wait_longer_after_each_death_up_to_a_limit() -> None:
    slot = WorkerSlot()
    for seconds in (*BACKOFF_S, BACKOFF_S[-1]):
        slot.clear()
        assert slot.start_at - time.monotonic() == pytest.approx(seconds, abs=0.1)
