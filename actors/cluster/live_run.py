"""The file in a live run's directory that says which cluster it runs on. Imports no Ray: Ray reads how to authenticate
when it is imported."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass

from actors.storage.atomic import atomic_write
from actors.storage.object_store import Location
from actors.storage.paths import content_of
from tangoflux.errors import ConfigError

POOLS = "pools.json"

CONNECT_TIMEOUT_S = 5.0

AUTH_MODE = "RAY_AUTH_MODE"


@dataclass(frozen=True)
class LiveRun:
    """Address of the cluster, name of the pools' controller, and Ray's authentication mode ("" for none)."""

    address: str
    controller: str
    auth_mode: str

    def write(self, run_dir: Location) -> None:
        """Publishes it in the run's directory.

        Raises:
            ResourceError: the directory cannot be written.
        """
        with atomic_write(run_dir / POOLS) as temporary:
            temporary.write_text(json.dumps(asdict(self)) + "\n")


def find_live_run(run_dir: Location) -> LiveRun:
    """Finds the cluster of a live run, so that this process can join it. Call it before Ray is imported.

    Raises:
        ConfigError: the run is not live.
    """
    content = content_of(run_dir / POOLS)
    if content is None:
        raise ConfigError(f"no run is live in {run_dir} (there is no {POOLS}): nothing to show or to scale")
    live = LiveRun(**json.loads(content))
    host, _, port = live.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        raise driver_is_gone(run_dir) from None
    if live.auth_mode:
        # Ray keeps a token in the user's home for clusters that it starts, but reads it only in this mode.
        os.environ.setdefault(AUTH_MODE, live.auth_mode)
    return live


def driver_is_gone(run_dir: Location) -> ConfigError:
    """The error for a run whose driver was killed."""
    return ConfigError(f"no run is live in {run_dir}: its driver is gone; continue it with --resume")
