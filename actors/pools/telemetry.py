"""Counters and gauges on Ray's Prometheus endpoint, where the cluster collects metrics; elsewhere nothing happens."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from actors.pools.status import PoolStatus

COUNTERS = {
    "samples": "samples that a pool is done with",
    "worker_deaths": "workers that died",
    "chunks_redone": "chunks that were begun again",
    "chunks_failed": "chunks that were given up",
    "dropped_groups": "prompts without a preference pair for want of a reward",
    "learner_steps": "optimiser steps",
    "learner_restarts": "times that the learner died and went on from a checkpoint",
}
"""What only grows; Prometheus makes rates of it."""

GAUGES = {
    "workers_ready": "workers that can work",
    "workers_target": "workers that a pool wants",
    "queued_chunks": "chunks that wait for a worker, as far as it is known",
    "idle_share": "share of the ready workers' time without work, while there was some",
    "policy_version": "version that rollouts are sampled from",
    "learner_steps_per_second": "pace of the last optimiser step",
}

PREFIX = "tangoflux_"


class Telemetry:
    """What a run tells of itself. All names begin with ``tangoflux_``; those of pools have the tag ``pool``."""

    def __init__(self) -> None:
        self._counters = {name: Counter(PREFIX + name, text, tag_keys=("pool",)) for name, text in COUNTERS.items()}
        self._gauges = {name: Gauge(PREFIX + name, text, tag_keys=("pool",)) for name, text in GAUGES.items()}
        self._before: dict[str, PoolStatus] = {}

    def count(self, name: str, number: float = 1, pool: str = "") -> None:
        """Adds to one of ``COUNTERS``."""
        if number > 0:
            self._counters[name].inc(number, tags={"pool": pool})

    def show(self, name: str, value: float, pool: str = "") -> None:
        """Sets one of ``GAUGES``."""
        self._gauges[name].set(value, tags={"pool": pool})

    def pools(self, statuses: Mapping[str, PoolStatus]) -> None:
        """What the pools are like now."""
        for name, now in statuses.items():
            before = self._before.get(name)
            self.count("samples", now.done - (before.done if before else 0), name)
            self.count("worker_deaths", now.deaths - (before.deaths if before else 0), name)
            self.count("chunks_redone", now.redone - (before.redone if before else 0), name)
            self.count("chunks_failed", now.failed - (before.failed if before else 0), name)
            self.show("workers_ready", now.ready, name)
            self.show("workers_target", now.target, name)
            self.show("queued_chunks", now.queued, name)
            self.show("idle_share", now.idle_share, name)
        self._before = dict(statuses)
