"""Where the cluster of a live run is: a file in its directory. Without Ray, which must first know how to log in."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.storage.atomic import atomic_write
from actors.storage.object_store import ObjectStorePath
from actors.storage.paths import content_of
from tangoflux.errors import ConfigError

POOLS = "pools.json"

REACH_S = 5.0
"""Seconds in which a cluster must answer."""

AUTH_MODE = "RAY_AUTH_MODE"


@dataclass(frozen=True)
class LiveRun:
    """Address of the cluster, name of the pools' controller, and how Ray checks who joins ("" where it does not)."""

    address: str
    controller: str
    auth_mode: str

    def write(self, run_dir: Path | ObjectStorePath) -> None:
        """Tells others.

        Raises:
            ResourceError: the directory cannot be written.
        """
        with atomic_write(run_dir / POOLS) as temporary:
            temporary.write_text(json.dumps(asdict(self)) + "\n")


def find_live_run(run_dir: Path | ObjectStorePath) -> LiveRun:
    """Where a run is live; this process can then join its cluster. To be called before Ray is imported.

    Raises:
        ConfigError: the run is not live.
    """
    content = content_of(run_dir / POOLS)
    if content is None:
        raise ConfigError(f"no run is live in {run_dir} (it holds no {POOLS}): nothing to show or to scale")
    live = LiveRun(**json.loads(content))
    host, _, port = live.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError:
        raise gone(run_dir) from None
    if live.auth_mode:
        # Ray keeps a token in the user's home for clusters of its own making, but only looks for it when told to.
        os.environ.setdefault(AUTH_MODE, live.auth_mode)
    return live


def gone(run_dir: Path | ObjectStorePath) -> ConfigError:
    """The error for a run whose driver ended without a word."""
    return ConfigError(f"no run is live in {run_dir}: its driver is gone; go on with --resume")
