"""Where the endpoint logs."""

from __future__ import annotations

import logging
from logging.handlers import MemoryHandler

OURS = logging.getLogger("serve")


def log_with_serve() -> None:
    """Writes this package's messages to the replica's log file, next to Serve's own, which is what people look into."""
    OURS.setLevel(logging.INFO)
    OURS.handlers = logging.getLogger("ray.serve").handlers
    OURS.propagate = False


def log_place() -> str:
    """The replica's log file, for error messages; "standard error" where there is none."""
    targets = [handler.target if isinstance(handler, MemoryHandler) else handler for handler in OURS.handlers]
    files = [target.baseFilename for target in targets if isinstance(target, logging.FileHandler)]
    return files[0] if files else "standard error"
