"""The controller of a live run's pools, from the driver's side and from others'."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError

from actors.cluster.live_run import AUTH_MODE, POOLS, LiveRun, gone
from actors.pools.controller import NAMESPACE, ControllerClient
from actors.pools.pool import Pool
from actors.pools.telemetry import Telemetry
from actors.pools.worker_slot import DEATHS
from actors.storage.object_store import ObjectStorePath
from actors.storage.paths import absolute, remove
from tangoflux.errors import ConfigError

REPLACED_S = 5.0
"""In which a driver that is alive has replaced its controller."""


@contextmanager
def publish_pools(
    run_dir: Path | ObjectStorePath, pools: Mapping[str, Pool], telemetry: Telemetry | None = None
) -> Generator[ControllerClient]:
    """Lets other processes see and scale the pools as long as the block lasts.

    Raises:
        ResourceError: the directory cannot be written.
    """
    name = f"pools-{hashlib.sha256(str(absolute(run_dir)).encode()).hexdigest()[:16]}"
    client = ControllerClient(name, pools, telemetry)
    address = ray.get_runtime_context().gcs_address
    LiveRun(address, name, os.environ.get(AUTH_MODE, "")).write(run_dir)
    try:
        yield client
    finally:
        client.close()
        remove(run_dir / POOLS)


@contextmanager
def connect_controller(live: LiveRun, run_dir: Path | ObjectStorePath) -> Generator[Any]:
    """The controller, in another process than the run's.

    Raises:
        ConfigError: the cluster cannot be joined, or the controller is gone or does not answer.
    """
    try:
        ray.init(address=live.address, log_to_driver=False, configure_logging=False)
    except ConnectionError:
        raise ConfigError(
            f"the cluster of {run_dir} at {live.address} cannot be joined: is this machine one of its nodes, and has "
            "it the cluster's token?"
        ) from None
    try:
        controller = _find(live)
        if controller is None:
            raise gone(run_dir)
        yield controller
    except (*DEATHS, GetTimeoutError):
        raise ConfigError(f"the pools of {run_dir} do not answer now; try again in a few seconds") from None
    finally:
        ray.shutdown()


def _find(live: LiveRun) -> Any:
    """The controller; the driver replaces one that died, and no other is there for a moment. None without it."""
    until = time.monotonic() + REPLACED_S
    while True:
        with suppress(ValueError):
            return ray.get_actor(live.controller, NAMESPACE)
        if time.monotonic() > until:
            return None
        time.sleep(0.2)
