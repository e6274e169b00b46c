"""One driver a run in an object store: the lock of ``run_lock`` without exclusive creation and renaming of files."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from types import TracebackType

from actors.storage.object_store import ObjectStorePath
from actors.storage.run_lock import HEARTBEAT_S, LOCK, STALE_S, describe_holder, is_alive, my_identity
from tangoflux.errors import ConfigError, ResourceError


class ObjectStoreLock:
    """Held as long as the block lasts.

    Holders have numbers: ``.lock/00000001``, ... are objects that are made only where there is none, so that of several
    drivers that want to be next, one is. Each puts its object again as a sign of life.
    """

    def __init__(self, place: ObjectStorePath) -> None:
        self._run, self._place = place, place / LOCK
        self._over = threading.Event()

    def __enter__(self) -> ObjectStoreLock:
        """Takes the lock.

        Raises:
            ConfigError: another driver has it; names it.
            ResourceError: the store does not answer.
        """
        self._content = my_identity()
        last = max(self._place.sizes(), default="0")
        holder = (self._place / last).find()
        if holder is not None and not self._is_stale(last, holder):
            raise ConfigError(f"{self._run} is in use: {describe_holder(holder)}; end that run first")
        self._mine = f"{int(last) + 1:08d}"
        if not (self._place / self._mine).create(self._content):
            raise ConfigError(f"{self._run} was taken by another driver just now")
        threading.Thread(target=self._beat, name="run lock", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._has():
            for name in sorted(self._place.sizes()):
                (self._place / name).delete()

    def _has(self) -> bool:
        return max(self._place.sizes(), default="") == self._mine

    def _is_stale(self, number: str, holder: bytes) -> bool:
        name = json.loads(holder)
        if name["host"] == socket.gethostname():
            return not is_alive(name)
        # The store's own clock says what is now: hosts may differ. Before the first number, so that it is none.
        (self._place / "00000000").put(self._content)
        return (self._place / "00000000").modified() - (self._place / number).modified() > STALE_S

    def _beat(self) -> None:
        """Signs of life; a driver that slept so long that another one took over ends itself."""
        while not self._over.wait(HEARTBEAT_S):
            try:
                if not self._has():
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                (self._place / self._mine).put(self._content)
            except ResourceError:
                continue  # a store that does not answer us does not let us write either
