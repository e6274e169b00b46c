"""The policies that are served: which versions there are, which are in memory, and which is the latest."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actors.anywhere import local_file
from actors.metrics import read_history
from actors.policy_store import PolicyStore
from actors.storage import Place
from actors.stored_policy import local_policy, stored_versions
from tangoflux.autoencoder import Autoencoder
from tangoflux.errors import CheckpointError, TangoFluxError
from tangoflux.model import TangoFlux
from tangoflux.policy import Policy
from tangoflux.sampling import SamplingParams, sample_latents

logger = logging.getLogger(__name__)

BASE, LATEST = "base", "latest"

PROBE = ("a dog barks", 1.0)
"""Prompt and seconds of the sample that a policy must give before it is served."""


@dataclass(frozen=True, eq=False)
class Resident:
    """A version in memory."""

    version: str
    policy: Policy
    autoencoder: Autoencoder


class Versions:
    """The versions that a source offers: those of a run, or the single one of a model."""

    def __init__(self, source: Path | Place, is_run: bool) -> None:
        self.source, self.is_run = source, is_run

    def names(self) -> list[str]:
        """All of them in order, by now.

        Raises:
            ResourceError: the store does not answer.
        """
        if not self.is_run:
            return [BASE]
        if isinstance(self.source, Place):
            return stored_versions(self.source / "policies")
        return [f"v{version:04d}" for version in PolicyStore(self.source / "policies").versions()]

    def directory(self, name: str) -> Path:
        """A version's files on this machine.

        Raises:
            CheckpointError: there is no such version any more.
            ResourceError: the store does not answer.
        """
        return local_policy(self.source / "policies" / name if self.is_run else self.source)

    def figures(self) -> dict[str, dict[str, Any]]:
        """What the run has measured of each version, see ``actors/metrics.py``; of those that it has."""
        if not self.is_run:
            return {}
        log = self.source / "metrics.jsonl"
        if isinstance(log, Place) and log.size("") is None:
            return {}
        with nullcontext(log) if isinstance(log, Path) else local_file(log) as file:
            events = read_history(file).iterations
        return {
            f"v{event['policy_version']:04d}": {"heldout": event["heldout"], "measured_at": event["time"]}
            for event in events
        }


class Policies:
    """Loads versions off the requests' path, keeps some, and follows the newest.

    Args:
        kept: versions in memory at most, the latest included; those that requests still use stay until these are done.
    """

    def __init__(self, versions: Versions, device: str = "cpu", kept: int = 3) -> None:
        self.versions, self._device, self._kept = versions, device, kept
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, "load policy")
        self._resident: OrderedDict[str, Future[Resident]] = OrderedDict()
        self._known: list[str] = []
        self._first: Resident | None = None
        self._latest: Resident | None = None
        self.refused: dict[str, str] = {}
        self.problem = ""

    @property
    def latest(self) -> Resident | None:
        """The newest version that is fit to serve; None before there is one."""
        return self._latest

    def known(self) -> list[str]:
        """Names of the versions as of the last look."""
        return list(self._known)

    def is_resident(self, name: str) -> bool:
        """Whether a version is in memory."""
        with self._lock:
            future = self._resident.get(name)
        return future is not None and future.done() and not future.exception()

    def get(self, name: str) -> Future[Resident] | None:
        """A version, in memory now or soon; None when there is no such version.

        Args:
            name: ``latest``, ``base`` (the run's first version), or a version's own name.
        """
        if name == LATEST and self._latest:
            name = self._latest.version
        if name == BASE and self._known:
            name = self._known[0]
        with self._lock:
            if name not in self._known or name in self.refused:
                return None
            if name not in self._resident:
                self._resident[name] = self._loader.submit(self._load, name)
            self._resident.move_to_end(name)
            self._drop()
            return self._resident[name]

    def look(self) -> None:
        """Takes over the newest version, once it is loaded and fit; to be called again and again."""
        try:
            self._known = self.versions.names()
            self.problem = ""
        except TangoFluxError as error:
            self.problem = str(error)
            return
        fit = [name for name in self._known if name not in self.refused]
        if not fit or (self._latest and fit[-1] == self._latest.version):
            return
        future = self.get(fit[-1])
        if future and not future.exception():
            self._latest = future.result()
            logger.info("policy %s is served from now on", fit[-1])

    def follow(self, every_s: float, over: threading.Event, on_look: Callable[[], None] = lambda: None) -> None:
        """Looks every so often until ``over``."""
        while not over.wait(every_s):
            self.look()
            on_look()

    def _load(self, name: str) -> Resident:
        started = time.monotonic()
        try:
            resident = self._read(name)
            _probe(resident)
        except CheckpointError as error:
            # Retention may have dropped it meanwhile, which says nothing against it.
            if name in self.versions.names():
                self._refuse(name, str(error))
            self._forget(name)
            raise
        except Exception as error:
            self._forget(name)
            if not isinstance(error, TangoFluxError):
                self._refuse(name, f"{type(error).__name__}: {error}")
            raise
        logger.info("policy %s loaded in %.1f s", name, time.monotonic() - started)
        return resident

    def _read(self, name: str) -> Resident:
        directory = self.versions.directory(name)
        if self._first is None:
            model = TangoFlux.from_pretrained(directory).to(self._device)
            self._first = Resident(name, model.policy, model.autoencoder)
            return self._first
        # Alignment changes neither text encoder nor codec: all versions share the first one's.
        first = self._first.policy
        policy = copy.deepcopy(first, {id(first.text_encoder): first.text_encoder})
        state = PolicyStore(directory.parent).state(int(name.removeprefix("v")))
        missing = policy.load_state_dict(state, strict=False)
        trained = [key for key in missing.missing_keys if not key.startswith("text_encoder.")]
        if trained or missing.unexpected_keys:
            raise CheckpointError(f"{name} is of another model: {', '.join([*trained, *missing.unexpected_keys][:5])}")
        return Resident(name, policy, self._first.autoencoder)

    def _refuse(self, name: str, reason: str) -> None:
        logger.error("policy %s is not served: %s", name, reason)
        self.refused[name] = reason

    def _forget(self, name: str) -> None:
        with self._lock:
            self._resident.pop(name, None)

    def _drop(self) -> None:
        """Lets go of the versions that were used longest ago; neither the latest nor those that are being loaded."""
        latest = self._latest.version if self._latest else None
        for name in [name for name, future in self._resident.items() if future.done() and name != latest]:
            if len(self._resident) <= self._kept:
                return
            del self._resident[name]


def _probe(resident: Resident) -> None:
    """Raises CheckpointError unless the policy gives finite latents."""
    prompt, seconds = PROBE
    model = TangoFlux(resident.policy, resident.autoencoder)
    request = model.request(prompt, min(seconds, resident.policy.config.max_duration), [0])
    [latents] = sample_latents(resident.policy, [request], SamplingParams(2, 2.0))
    if not torch.isfinite(latents).all():
        raise CheckpointError(f"{resident.version} gives latents that are not finite")
