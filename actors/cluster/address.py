"""Which cluster a command joins. Imports no Ray."""

from __future__ import annotations

import os


def cluster_address() -> str | None:
    """The cluster to join, from ``RAY_ADDRESS``; None to start Ray on this machine."""
    address = os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address or None
