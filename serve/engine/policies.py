"""The policies that are served: the versions that exist, those in memory, and the latest."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actors.storage.layout import POLICIES
from actors.storage.metrics import read_history
from actors.storage.object_store import Location
from actors.storage.paths import local_file, size_of
from actors.storage.policy_store import PolicyStore, local_policy, version_name
from tangoflux.errors import CheckpointError, ResourceError, TangoFluxError
from tangoflux.model.autoencoder import Autoencoder
from tangoflux.model.policy import Policy
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling import sample_latents
from tangoflux.sampling_params import SamplingParams

logger = logging.getLogger(__name__)

BASE, LATEST = "base", "latest"

TRANSIENT_ERRORS = (OSError, MemoryError, torch.OutOfMemoryError, ResourceError)
"""Errors that are not the version's fault: it may load the next time."""

PROBE = ("a dog barks", 1.0)
"""Prompt and seconds of the test sample that a policy must produce before it is served."""


@dataclass(frozen=True, eq=False)
class Resident:
    """A version in memory."""

    version: str
    policy: Policy
    autoencoder: Autoencoder


class Versions:
    """The versions that a source offers: those of a run, or the single one of a model."""

    def __init__(self, source: Location, is_run: bool) -> None:
        self.source, self.is_run = source, is_run
        self._store = PolicyStore[Any](source / POLICIES)
        self._figures: tuple[int | None, dict[str, dict[str, Any]]] = (None, {})

    def names(self) -> list[str]:
        """All versions so far, in order.

        Raises:
            ResourceError: the store does not answer.
        """
        return [version_name(version) for version in self._store.versions()] if self.is_run else [BASE]

    def directory(self, name: str) -> Path:
        """A version's files on this machine.

        Raises:
            CheckpointError: there is no such version, or no longer.
            ResourceError: the store does not answer.
        """
        return self._store.local(_number(name)) if self.is_run else local_policy(self.source)

    def figures(self) -> dict[str, dict[str, Any]]:
        """The run's held-out figures by version, of those that are measured; see ``actors/storage/metrics.py``.

        Raises:
            OSError, ResourceError: the log cannot be read.
        """
        log = self.source / "metrics.jsonl"
        size = size_of(log) if self.is_run else None
        if size != self._figures[0]:
            self._figures = size, {} if size is None else _read_figures(log)
        return self._figures[1]


def _read_figures(log: Location) -> dict[str, dict[str, Any]]:
    with local_file(log) as file:
        events = read_history(file).iterations
    return {
        version_name(event["policy_version"]): {"heldout": event["heldout"], "measured_at": event["time"]}
        for event in events
    }


class BusyError(Exception):
    """As many versions are being loaded as fit in memory."""


class Policies:
    """Loads versions in the background, keeps some in memory, and follows the newest.

    Args:
        kept: most versions in memory, the latest and at least one other; versions that requests still use stay until
            these have finished.

    Attributes:
        metrics: what the run had measured of each version at the last refresh.
        refused: versions that cannot be served, with the reasons.
        problem: why the last refresh failed; empty if it succeeded.
    """

    def __init__(self, versions: Versions, device: str = "cpu", kept: int = 3) -> None:
        self.versions, self._device, self._others_kept = versions, device, max(1, kept - 1)
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, "load policy")
        self._others: OrderedDict[str, Future[Resident]] = OrderedDict()
        self._known: list[str] = []
        self._latest: Resident | None = None
        self.metrics: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, str] = {}
        self.problem = ""

    @property
    def latest(self) -> Resident | None:
        """The newest version that can be served; None before there is one."""
        return self._latest

    def known(self) -> list[str]:
        """Names of the versions as of the last refresh."""
        return list(self._known)

    def is_resident(self, name: str) -> bool:
        """Whether a version is in memory."""
        with self._lock:
            future = self._others.get(name)
            return self._is_latest(name) or (future is not None and future.done() and not future.exception())

    def get(self, name: str) -> Future[Resident] | None:
        """A version, loaded or being loaded; None if there is no such version.

        Args:
            name: ``latest``, ``base`` (the run's first version), or a version's own name.

        Raises:
            BusyError: it must be loaded, but as many others as allowed are being loaded.
        """
        with self._lock:
            name = self._known[0] if name == BASE and self._known else name
            if self._latest and (name == LATEST or self._is_latest(name)):
                return _done(self._latest)
            if name not in self._known or name in self.refused:
                return None
            if name not in self._others:
                self._drop(self._others_kept - 1)
                if len(self._others) >= self._others_kept:
                    raise BusyError(f"{', '.join(self._others)} are being loaded; {name} has to wait")
                self._others[name] = self._loader.submit(self._load, name)
            self._others.move_to_end(name)
            return self._others[name]

    def refresh(self) -> None:
        """Lists the versions, and switches to the newest once it is loaded and tested; to be called periodically."""
        try:
            self._known = self.versions.names()
            usable = [name for name in self._known if name not in self.refused]
            if usable and self._is_newer(usable[-1]):
                self._switch_to(usable[-1])
            self.metrics = self.versions.figures()
        except (TangoFluxError, *TRANSIENT_ERRORS) as error:
            self.problem = str(error)
        else:
            self.problem = ""

    def follow(self, every_s: float, stop: threading.Event, on_refresh: Callable[[], None] = lambda: None) -> None:
        """Refreshes every ``every_s`` seconds until ``stop`` is set."""
        while not stop.wait(every_s):
            try:
                self.refresh()
                on_refresh()
            except Exception as error:  # must not end the loop: the next version may load
                logger.exception("looking for new policies failed")
                self.problem = f"{type(error).__name__}: {error}"

    def _is_latest(self, name: str) -> bool:
        return self._latest is not None and name == self._latest.version

    def _is_newer(self, name: str) -> bool:
        """Whether a version is newer than the latest, which stays if its successors are refused or it is deleted."""
        return self._latest is None or (name != BASE and _number(name) > _number(self._latest.version))

    def _switch_to(self, name: str) -> None:
        try:
            resident = self._load(name)
        except TRANSIENT_ERRORS:
            raise
        except Exception:  # recorded by ``_load``, unless the version was deleted meanwhile
            return
        with self._lock:
            before, self._latest = self._latest, resident
            self._others.pop(resident.version, None)
            if before:
                self._others[before.version] = _done(before)
            self._drop(self._others_kept)
        logger.info("now serving policy %s", resident.version)

    def _load(self, name: str) -> Resident:
        started = time.monotonic()
        try:
            resident = self._read(name)
            _probe(resident)
        except Exception as error:
            with self._lock:
                self._others.pop(name, None)
            if not isinstance(error, TRANSIENT_ERRORS) and self._exists(name):
                self._refuse(
                    name, str(error) if isinstance(error, TangoFluxError) else f"{type(error).__name__}: {error}"
                )
            raise
        logger.info("policy %s loaded in %.1f s", name, time.monotonic() - started)
        return resident

    def _exists(self, name: str) -> bool:
        """Whether a version still exists; if retention has deleted it, it is not to blame for the error."""
        try:
            return name in self.versions.names()
        except TRANSIENT_ERRORS:
            return False

    def _read(self, name: str) -> Resident:
        directory = self.versions.directory(name)
        if self._latest is None:
            model = TangoFlux.from_pretrained(directory).to(self._device)
            return Resident(name, model.policy, model.autoencoder)
        # Alignment changes neither the text encoder nor the codec: all versions share the first one's.
        like = self._latest
        policy = copy.deepcopy(like.policy, {id(like.policy.text_encoder): like.policy.text_encoder})
        missing = policy.load_state_dict(PolicyStore(directory.parent).state(_number(name)), strict=False)
        trained = [key for key in missing.missing_keys if not key.startswith("text_encoder.")]
        if trained or missing.unexpected_keys:
            raise CheckpointError(f"{name} is of another model: {', '.join([*trained, *missing.unexpected_keys][:5])}")
        return Resident(name, policy, like.autoencoder)

    def _refuse(self, name: str, reason: str) -> None:
        logger.error("policy %s is not served: %s", name, reason)
        self.refused[name] = reason

    def _drop(self, most: int) -> None:
        """Drops the least recently used versions until ``most`` others are left; none that is being loaded."""
        for name in [name for name, future in self._others.items() if future.done()]:
            if len(self._others) <= most:
                return
            del self._others[name]


def _number(name: str) -> int:
    return int(name.removeprefix("v"))


def _done(resident: Resident) -> Future[Resident]:
    future: Future[Resident] = Future()
    future.set_result(resident)
    return future


def _probe(resident: Resident) -> None:
    """Raises CheckpointError unless the policy produces finite latents."""
    prompt, seconds = PROBE
    model = TangoFlux(resident.policy, resident.autoencoder)
    request = model.request(prompt, min(seconds, resident.policy.config.max_duration), [0])
    [latents] = sample_latents(resident.policy, [request], SamplingParams(2, 2.0))
    if not torch.isfinite(latents).all():
        raise CheckpointError(f"{resident.version} produces latents that are not finite")
