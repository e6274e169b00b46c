"""The lock of a directory: one process at a time writes there, on a disk or in an object store."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from actors.storage.object_store import Location
from actors.storage.paths import content_of, create, modified, remove, sizes, write
from tangoflux.errors import ConfigError, ResourceError

logger = logging.getLogger(__name__)

LOCK = ".lock"
"""In the locked directory."""

CLOCK = "00000000"
"""A file next to the holders' that is written to learn the storage's time."""

HEARTBEAT_S = 5.0

STALE_S = 60.0
"""A lock without a heartbeat for this long is replaced; at once if this process can see that its process has ended."""

STARTED_S = 2.0
"""A process that started this close to the time in a lock is the one that took it: the clock may have been set."""


class RunLock:
    """Held until the block ends. Needs nothing of the storage but the exclusive creation of files.

    Holders have numbers: ``.lock/00000001``, ... are files that are created only if they do not exist. Of several
    processes that want to be the next holder, one therefore succeeds. The holder renews its file as a heartbeat.
    """

    def __init__(self, directory: Location) -> None:
        self._directory, self._lock = directory, directory / LOCK
        self._released = threading.Event()
        self._identity = _my_identity()
        self._heartbeat = threading.Thread(target=self._beat, name="run lock", daemon=True)

    def __enter__(self) -> RunLock:
        """Takes the lock.

        Raises:
            ConfigError: another process holds it; names that process.
            ResourceError: the directory cannot be written or the store does not answer.
        """
        last, holder = self._last_holder()
        self._mine = f"{int(last) + 1:08d}"
        if not create(self._lock / self._mine, self._identity):
            raise ConfigError(f"{self._directory} was just taken by another process")
        if holder is not None and content_of(self._lock / last) != holder:
            # Another process has replaced the holder and ended since, so that its numbers may be in use again.
            remove(self._lock / self._mine)
            raise ConfigError(f"{self._directory} was just taken by another process")
        self._heartbeat.start()
        return self

    def check_free(self) -> None:
        """Checks that no other process holds the lock, without taking it.

        Raises:
            ConfigError: another process holds it, which it names, or a file of another program is in its place.
        """
        self._last_holder()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._heartbeat.join(HEARTBEAT_S)
        if self._last() == self._mine:
            for name in sorted(sizes(self._lock)):
                remove(self._lock / name)
            if isinstance(self._lock, Path):
                _remove_empty(self._lock)

    def _last_holder(self) -> tuple[str, bytes | None]:
        """Number and content of the last holder, which is gone; None if there was none."""
        if isinstance(self._lock, Path) and self._lock.is_file():
            raise ConfigError(f"{self._lock} is a file of another program: remove it, or choose another directory")
        last = self._last()
        holder = content_of(self._lock / last) if last > CLOCK else None
        if holder is not None and not self._is_stale(self._lock / last, holder):
            raise ConfigError(f"{self._directory} is in use: {_describe(holder)}; end that run first")
        return last, holder

    def _last(self) -> str:
        return max(sizes(self._lock), default=CLOCK)

    def _is_stale(self, file: Location, holder: bytes) -> bool:
        identity = _parse(holder)
        if identity["processes"] == _processes():
            return not is_alive(identity)
        # Both times are the storage's: the clocks of hosts may differ.
        write(self._lock / CLOCK, self._identity)
        return modified(self._lock / CLOCK) - modified(file) > STALE_S

    def _beat(self) -> None:
        """Renews the lock. A process that was suspended so long that another one replaced it ends itself."""
        while not self._released.wait(HEARTBEAT_S):
            try:
                if self._last() != self._mine:
                    logger.error("another process has taken %s over: this one ends", self._directory)
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                if isinstance(self._lock, Path):
                    os.utime(self._lock / self._mine)
                else:
                    write(self._lock / self._mine, self._identity)
            except (OSError, ResourceError):
                continue  # the storage does not answer; the next heartbeat may succeed


def is_alive(identity: dict[str, Any]) -> bool:
    """Whether a process of this host still runs.

    Args:
        identity: its ``pid`` and when it ``started``, in unix seconds.
    """
    try:
        process = psutil.Process(identity["pid"])
        same = abs(process.create_time() - identity["started"]) < STARTED_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _my_identity() -> bytes:
    identity = {
        "host": socket.gethostname(),
        "processes": _processes(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    return json.dumps(identity).encode()


def _processes() -> str:
    """Which processes this one can see: those of its machine since its start, and of its container."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not namespace.is_symlink():  # no Linux
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"
    return f"{boot.read_text().strip()} {os.readlink(namespace)}"


def _parse(holder: bytes) -> dict[str, Any]:
    try:
        return json.loads(holder)
    except ValueError:  # the holder is writing it at this moment, or was killed while it did
        return {"host": "unknown", "processes": "", "pid": 0, "since": "just now"}


def _describe(holder: bytes) -> str:
    identity = _parse(holder)
    return f"process {identity['pid']} on host {identity['host']} has written there since {identity['since']}"


def _remove_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:  # another process takes the lock at this moment
        return
