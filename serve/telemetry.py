"""Counters and gauges of a replica on Ray's Prometheus endpoint, in addition to Serve's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge


class Telemetry:
    """The metrics of a replica; Ray adds its process as a tag."""

    def __init__(self) -> None:
        self._samples = Counter("tangoflux_serve_samples", "samples generated")
        self._sampling = Gauge("tangoflux_serve_sampling", "samples being generated")
        self._waiting = Gauge("tangoflux_serve_waiting", "samples waiting")
        self._version = Gauge("tangoflux_serve_policy_version", "latest version served, of a run")
        self._refused = Gauge("tangoflux_serve_refused_policies", "versions that cannot be served")
        self._reported = 0

    def update(self, health: Mapping[str, Any], samples: int) -> None:
        """Sets all metrics.

        Args:
            health: as from ``Service.health``.
            samples: number generated since the replica started.
        """
        if samples > self._reported:
            self._samples.inc(samples - self._reported)
        self._reported = samples
        self._sampling.set(health["sampling"])
        self._waiting.set(health["waiting"])
        self._refused.set(len(health["refused"]))
        version = str(health["version"])
        if version.startswith("v"):
            self._version.set(int(version[1:]))
