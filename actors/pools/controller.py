"""The controller of a live run's pools: a named actor where other processes read their status and request resizes.

The pools live in the driver, which synchronises with the controller periodically and never waits for it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import ActorAlreadyExistsError, GetTimeoutError

from actors.cluster.live_run import AUTH_MODE, POOLS, LiveRun, driver_is_gone
from actors.cluster.nodes import this_node
from actors.options.pool_size import PoolSize
from actors.pools.pool import Pool
from actors.pools.status import PoolStatus
from actors.pools.telemetry import Telemetry
from actors.pools.worker_slot import DEATHS, first_line, is_done
from actors.storage.object_store import Location
from actors.storage.paths import absolute, remove
from tangoflux.errors import ConfigError

logger = logging.getLogger(__name__)

NAMESPACE = "tangoflux"

SYNC_INTERVAL_S = 0.5

REPLACEMENT_TIMEOUT_S = 5.0
"""Time within which a live driver replaces a controller that died."""


class PoolController:
    """Holds the latest status and the pending resize requests. A plain class; ``ControllerActor`` is the actor."""

    def __init__(self) -> None:
        self._status: Mapping[str, PoolStatus] = {}
        self._resize_requests: dict[str, PoolSize] = {}

    def sync(self, status: Mapping[str, PoolStatus]) -> dict[str, PoolSize]:
        """For the driver: stores the pools' status; returns the resize requests since the last call."""
        self._status = status
        requests, self._resize_requests = self._resize_requests, {}
        return requests

    def request_resize(self, sizes: Mapping[str, PoolSize]) -> None:
        """For other processes: requests other sizes, by the pools' names."""
        self._resize_requests |= sizes

    def status(self) -> Mapping[str, PoolStatus]:
        """For other processes: the pools' status at the last synchronisation."""
        return self._status


ControllerActor: Any = ray.remote(PoolController)


class PoolPublisher:
    """The driver's side: keeps a controller alive, publishes the pools' status and applies resize requests."""

    def __init__(self, name: str, pools: Mapping[str, Pool], telemetry: Telemetry | None = None) -> None:
        """Publishes on every poll of the pools, to the controller ``name``."""
        self.name = name
        self._pools = pools
        self._telemetry = telemetry
        self._actor: Any = None
        self._reply: ObjectRef[Any] | None = None
        self._synced_at = 0.0
        for pool in pools.values():
            pool.on_poll = self._sync

    def close(self) -> None:
        """Ends the controller."""
        for pool in self._pools.values():
            pool.on_poll = None
        if self._actor is not None:
            ray.kill(self._actor)

    def _sync(self) -> None:
        """Synchronises if due; waits for nothing."""
        if self._reply is not None and is_done(self._reply):
            self._handle(self._reply)
            self._reply = None
        if self._reply is None and time.monotonic() - self._synced_at >= SYNC_INTERVAL_S:
            self._synced_at = time.monotonic()
            status = {name: pool.status() for name, pool in self._pools.items()}
            if self._telemetry:
                self._telemetry.record_pools(status)
            if self._actor is None:
                self._start()
            if self._actor is not None:
                self._reply = self._actor.sync.remote(status)

    def _start(self) -> None:
        # Ray may need seconds to notice that a controller of this name died with its node or its driver.
        with suppress(ActorAlreadyExistsError):
            self._actor = ControllerActor.options(
                name=self.name, namespace=NAMESPACE, num_cpus=0, scheduling_strategy=this_node()
            ).remote()

    def _handle(self, reply: ObjectRef[Any]) -> None:
        try:
            requests: Mapping[str, PoolSize] = ray.get(reply)
        except DEATHS as error:
            logger.warning("the controller of the pools died and is replaced: %s", first_line(error))
            self._actor = None
        else:
            for name, size in requests.items():
                self._pools[name].resize(size)


@contextmanager
def publish_pools(
    run_dir: Location, pools: Mapping[str, Pool], telemetry: Telemetry | None = None
) -> Generator[PoolPublisher]:
    """Lets other processes inspect and resize the pools until the block ends.

    Raises:
        ResourceError: the directory cannot be written.
    """
    name = f"pools-{hashlib.sha256(str(absolute(run_dir)).encode()).hexdigest()[:16]}"
    publisher = PoolPublisher(name, pools, telemetry)
    address = ray.get_runtime_context().gcs_address
    LiveRun(address, name, os.environ.get(AUTH_MODE, "")).write(run_dir)
    try:
        yield publisher
    finally:
        publisher.close()
        remove(run_dir / POOLS)


@contextmanager
def connect_controller(live: LiveRun, run_dir: Location) -> Generator[Any]:
    """The controller's handle, in another process than the run's.

    Raises:
        ConfigError: the cluster cannot be joined, or the controller is gone or does not answer.
    """
    try:
        ray.init(address=live.address, log_to_driver=False, configure_logging=False)
    except ConnectionError:
        raise ConfigError(
            f"cannot join the cluster of {run_dir} at {live.address}: run this on one of its nodes, with the cluster's "
            "token"
        ) from None
    try:
        yield _find_controller(live.controller, run_dir)
    except (*DEATHS, GetTimeoutError):
        raise ConfigError(f"the pools of {run_dir} do not answer now; try again in a few seconds") from None
    finally:
        ray.shutdown()


def _find_controller(name: str, run_dir: Location) -> Any:
    """Looks the controller up; waits for the driver to replace one that died."""
    deadline = time.monotonic() + REPLACEMENT_TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(ValueError):
            return ray.get_actor(name, NAMESPACE)
        time.sleep(0.2)
    raise driver_is_gone(run_dir)
