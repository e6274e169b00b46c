"""Joins a Ray cluster that somebody else started."""

from __future__ import annotations

import logging
import re
import socket

import ray
from ray.exceptions import RayError

from tangoflux.errors import ResourceError

CONNECT_S = 10.0
"""Until the head must answer. Ray itself tries for minutes, and then ends the process."""


def join(address: str) -> None:
    """Joins the cluster at an address as ``RAY_ADDRESS`` has it.

    Raises:
        ResourceError: nobody answers there, or it is no such address.
    """
    try:
        if head := re.fullmatch(r"([^/:]+):(\d+)", address):
            socket.create_connection((head[1], int(head[2])), CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, ValueError, RuntimeError, RayError) as error:
        reason = str(error).partition("\n")[0].split(". ")[0]
        raise ResourceError(
            f"the cluster at RAY_ADDRESS={address} cannot be joined ({reason}): give the head's host:port, as `ray "
            "start --head` shows it, or unset RAY_ADDRESS to start Ray on this machine"
        ) from error
