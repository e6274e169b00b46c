"""Counters and gauges of a replica on Ray's Prometheus endpoint, beside those that Serve has of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge


class Telemetry:
    """What a replica tells of itself; Ray adds its process as a tag."""

    def __init__(self) -> None:
        self._samples = Counter("tangoflux_serve_samples", "samples that were made")
        self._sampling = Gauge("tangoflux_serve_sampling", "samples under way")
        self._waiting = Gauge("tangoflux_serve_waiting", "samples that wait")
        self._version = Gauge("tangoflux_serve_policy_version", "latest policy that is served, of a run")
        self._refused = Gauge("tangoflux_serve_refused_policies", "versions that are not fit to serve")
        self._before = 0

    def show(self, health: Mapping[str, Any], samples: int) -> None:
        """Sets all of them.

        Args:
            health: what ``Service.health`` says.
            samples: made since the replica started.
        """
        if samples > self._before:
            self._samples.inc(samples - self._before)
        self._before = samples
        self._sampling.set(health["sampling"])
        self._waiting.set(health["waiting"])
        self._refused.set(len(health["refused"]))
        version = str(health["version"])
        if version.startswith("v"):
            self._version.set(int(version[1:]))
