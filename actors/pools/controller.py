"""The controller of a run's pools: other processes read there how the pools are, and say how large they should be.

The pools live in the driver. It exchanges with the controller every now and then and never waits for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import ActorAlreadyExistsError

from actors.cluster.nodes import this_node
from actors.options.pool_size import PoolSize
from actors.pools.pool import Pool
from actors.pools.status import PoolStatus
from actors.pools.telemetry import Telemetry
from actors.pools.worker_slot import DEATHS, first_line, is_done

logger = logging.getLogger(__name__)

NAMESPACE = "tangoflux"

EXCHANGE_S = 0.5
"""Seconds from one exchange to the next."""


class PoolController:
    """Holds the latest status and the requests. A plain class; ``ControllerActor`` is the actor."""

    def __init__(self) -> None:
        self._status: Mapping[str, PoolStatus] = {}
        self._resize_requests: dict[str, PoolSize] = {}

    def exchange(self, status: Mapping[str, PoolStatus]) -> dict[str, PoolSize]:
        """For the driver: takes the pools' status, gives the sizes that were wished for since the last exchange."""
        self._status = status
        requests, self._resize_requests = self._resize_requests, {}
        return requests

    def request_resize(self, sizes: Mapping[str, PoolSize]) -> None:
        """For others: asks for other sizes of some pools."""
        self._resize_requests |= sizes

    def status(self) -> Mapping[str, PoolStatus]:
        """For others: the pools as they were at the last exchange."""
        return self._status


ControllerActor: Any = ray.remote(PoolController)


class ControllerClient:
    """The driver's side: keeps a controller alive, tells it of the pools and does what is wished there."""

    def __init__(self, name: str, pools: Mapping[str, Pool], telemetry: Telemetry | None = None) -> None:
        """Starts the controller ``name`` and lets the pools look at it whenever they are tended."""
        self.name = name
        self._pools = pools
        self._telemetry = telemetry
        self._actor: Any = None
        self._answer: ObjectRef[Any] | None = None
        self._asked_at = 0.0
        for pool in pools.values():
            pool.on_poll = self.tick

    def tick(self) -> None:
        """One exchange, if it is time; waits for nothing."""
        if self._answer is not None and is_done(self._answer):
            self._take_answer(self._answer)
            self._answer = None
        if self._answer is None and time.monotonic() - self._asked_at >= EXCHANGE_S:
            self._asked_at = time.monotonic()
            statuses = {name: pool.status() for name, pool in self._pools.items()}
            if self._telemetry:
                self._telemetry.pools(statuses)
            if self._actor is None:
                self._start()
            if self._actor is not None:
                self._answer = self._actor.exchange.remote(statuses)

    def close(self) -> None:
        """Ends the controller."""
        for pool in self._pools.values():
            pool.on_poll = None
        if self._actor is not None:
            ray.kill(self._actor)

    def _start(self) -> None:
        # Ray may need seconds to notice that a controller of this name went with its node or its driver.
        with suppress(ActorAlreadyExistsError):
            self._actor = ControllerActor.options(
                name=self.name, namespace=NAMESPACE, num_cpus=0, scheduling_strategy=this_node()
            ).remote()

    def _take_answer(self, answer: ObjectRef[Any]) -> None:
        try:
            requests: Mapping[str, PoolSize] = ray.get(answer)
        except DEATHS as error:
            logger.warning("the controller of the pools died and is replaced: %s", first_line(error))
            self._actor = None
        else:
            for name, size in requests.items():
                self._pools[name].resize(size)
