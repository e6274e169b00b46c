"""The places of a pool's workers in a cluster that may have become too small for all pools."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import ray

from actors.cluster.nodes import free_nodes
from actors.cluster.placement import Request, can_place, format_resources
from actors.pools.worker_slot import TELL_S

logger = logging.getLogger(__name__)

SHARE_S = 10.0
"""So long a pool may be without a place before another pool's idle worker gives its own up, and then again."""


class Places:
    """What a pool needs, and how many of its workers stay away in favour of other pools.

    Attributes:
        given_up: workers that stay away.
    """

    def __init__(self, name: str, resources: Mapping[str, Any]) -> None:
        """``name`` and ``resources`` are those of the pool."""
        amounts = {"CPU": resources.get("num_cpus", 0), "GPU": resources.get("num_gpus", 0)}
        needs = {**amounts, **resources.get("resources", {})}
        self._request = Request(name, 1, needs, resources.get("label_selector", {}))
        self._next_look = 0.0
        self._told = False
        self.given_up = 0

    def give_up(self, workers: int) -> None:
        """So many workers fewer, at least for ``SHARE_S``."""
        self.given_up += workers
        self._next_look = time.monotonic() + SHARE_S

    def is_due(self) -> bool:
        """Whether it is time for another look; true at most every ``SHARE_S``."""
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + SHARE_S
        return True

    def is_free(self) -> bool:
        """Whether the cluster has a place for another worker."""
        return can_place(self._request, free_nodes())

    def found(self) -> None:
        """A worker is ready: a later shortage is told again."""
        self._told = False

    def tell(self, waited_s: float) -> None:
        """Says once what the pool has waited for, after ``TELL_S``."""
        if waited_s > TELL_S and not self._told:
            self._told = True
            logger.warning("no %s has had a place for %.0f s: %s", self._request.name, waited_s, self.shortage())

    def shortage(self) -> str:
        """What a worker needs and what is free."""
        needs, free = format_resources(self._request.resources), format_resources(ray.available_resources())
        return f"each needs {needs}, free in the cluster: {free}; ask for less or add nodes"
