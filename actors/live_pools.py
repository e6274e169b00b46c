"""The controller of a live run's pools, from the driver's side and from others'."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from actors.anywhere import absolute, remove
from actors.controller import NAMESPACE, Controls
from actors.live_run import AUTH_MODE, POOLS, LiveRun, gone
from actors.pool import Pool
from actors.storage import Place
from actors.telemetry import Telemetry
from tangoflux.errors import ConfigError


@contextmanager
def announced(
    run_dir: Path | Place, pools: Mapping[str, Pool], telemetry: Telemetry | None = None
) -> Generator[Controls]:
    """Lets other processes see and scale the pools as long as the block lasts.

    Raises:
        ResourceError: the directory cannot be written.
    """
    name = f"pools-{hashlib.sha256(str(absolute(run_dir)).encode()).hexdigest()[:16]}"
    controls = Controls(name, pools, telemetry)
    address = ray.get_runtime_context().gcs_address
    LiveRun(address, name, os.environ.get(AUTH_MODE, "")).write(run_dir)
    try:
        yield controls
    finally:
        controls.close()
        remove(run_dir / POOLS)


@contextmanager
def joined(live: LiveRun, run_dir: Path | Place) -> Generator[Any]:
    """The controller, in another process than the run's.

    Raises:
        ConfigError: the cluster cannot be joined, or the controller is gone.
    """
    try:
        ray.init(address=live.address, log_to_driver=False, configure_logging=False)
    except ConnectionError:
        raise ConfigError(
            f"the cluster of {run_dir} at {live.address} cannot be joined: is this machine one of its nodes, and has "
            "it the cluster's token?"
        ) from None
    try:
        yield ray.get_actor(live.controller, NAMESPACE)
    except ValueError:
        raise gone(run_dir) from None
    finally:
        ray.shutdown()
