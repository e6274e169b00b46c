"""One driver a run directory: a file that is there while a driver lives, with its name and its heartbeat."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from actors.storage.atomic import atomic_write, explain_disk_errors
from tangoflux.errors import ConfigError

LOCK = ".lock"
"""In the run directory."""

HEARTBEAT_S = 5.0
"""Between two signs of life, which are the file's time of change."""

STARTED_S = 2.0
"""A process that started so close to the time in a lock is the one that made it: the clock may have been set since."""

STALE_S = 60.0
"""A lock without a sign of life for so long is taken over; at once if its process was on this host and is gone."""


class RunLock:
    """Held as long as the block lasts. Works on any file system with exclusive creation and renaming."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK
        self._over = threading.Event()

    def __enter__(self) -> RunLock:
        """Takes the lock.

        Raises:
            ConfigError: another driver has it; names it.
            ResourceError: the directory cannot be written.
        """
        with explain_disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._content = my_identity()
            if not _create(self._path, self._content):
                self._take_over()
        threading.Thread(target=self._beat, name="run lock", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if _read(self._path) == self._content:
            self._path.unlink(missing_ok=True)

    def _take_over(self) -> None:
        """Replaces a lock whose driver is gone. Of several that try, one does."""
        content = _read(self._path)
        if content is None:
            raise ConfigError(f"{self._path.parent} was in use until just now; try again")
        if not self._is_stale(content):
            raise ConfigError(f"{self._path.parent} is in use: {describe_holder(content)}; end that run first")
        marker = self._path.with_name(f"{LOCK}.{hashlib.sha256(content).hexdigest()[:12]}")
        if not _create(marker, self._content):
            if time.time() - marker.stat().st_mtime > STALE_S:
                marker.unlink(missing_ok=True)  # its maker died in the middle
            raise ConfigError(f"{self._path.parent} is being taken over by another driver; try again")
        try:
            if _read(self._path) != content:
                raise ConfigError(f"{self._path.parent} was taken over by another driver just now")
            with atomic_write(self._path) as temporary:
                temporary.write_bytes(self._content)
        finally:
            marker.unlink(missing_ok=True)

    def _is_stale(self, content: bytes) -> bool:
        name = json.loads(content)
        if name["host"] == socket.gethostname():
            return not is_alive(name)
        return time.time() - self._path.stat().st_mtime > STALE_S

    def _beat(self) -> None:
        """Signs of life; a driver that slept so long that another one took over ends itself."""
        while not self._over.wait(HEARTBEAT_S):
            try:
                if _read(self._path) != self._content:
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                os.utime(self._path)
            except OSError:
                continue  # a file system that does not answer; the next sign of life may come through


def my_identity() -> bytes:
    """Who holds a lock, as JSON."""
    name = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    return json.dumps({**name, "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}).encode()


def is_alive(name: dict[str, Any]) -> bool:
    """Whether a process of this host, by its name in a lock, is still there."""
    try:
        process = psutil.Process(name["pid"])
        same = abs(process.create_time() - name["started"]) < STARTED_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _create(path: Path, content: bytes) -> bool:
    """Makes the file, unless it is there."""
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> bytes | None:
    """None without a file; one that is being written is waited for."""
    for _ in range(20):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if content.endswith(b"}"):
            return content
        time.sleep(0.05)
    return b'{"host": "unknown", "pid": 0, "started": 0, "since": "unknown"}'


def describe_holder(content: bytes) -> str:
    """The holder of a lock, for people."""
    name = json.loads(content)
    return f"process {name['pid']} on {name['host']} works there since {name['since']}"
