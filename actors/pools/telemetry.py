"""Counters and gauges on Ray's Prometheus endpoint; without effect where the cluster collects no metrics."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from actors.pools.status import PoolStatus

COUNTERS = {
    "samples": "samples that a pool completed",
    "worker_deaths": "workers that died",
    "chunks_retried": "chunks that were started again",
    "chunks_failed": "chunks that were given up",
    "dropped_groups": "prompts without a preference pair because a reward is missing",
    "learner_steps": "optimiser steps",
    "learner_restarts": "restarts of the learner from a checkpoint after a death",
}
"""Values that only increase; Prometheus derives rates from them."""

GAUGES = {
    "workers_ready": "workers that are ready",
    "workers_target": "workers that a pool wants",
    "queued_chunks": "chunks that are waiting for a worker, as far as known",
    "idle_share": "idle fraction of the ready workers' time while the pool had work",
    "policy_version": "version of the policy that is sampled",
    "learner_steps_per_second": "speed of the last optimiser step",
}

POOL_COUNTERS = {"samples": "done", "worker_deaths": "deaths", "chunks_retried": "retried", "chunks_failed": "failed"}
POOL_GAUGES = {
    "workers_ready": "ready",
    "workers_target": "target",
    "queued_chunks": "queued",
    "idle_share": "idle_share",
}
"""Fields of ``PoolStatus`` by the names of their metrics."""

PREFIX = "tangoflux_"


class Telemetry:
    """The metrics of a run. All names begin with ``tangoflux_``; those of pools have the tag ``pool``."""

    def __init__(self) -> None:
        self._counters = {name: Counter(PREFIX + name, text, tag_keys=("pool",)) for name, text in COUNTERS.items()}
        self._gauges = {name: Gauge(PREFIX + name, text, tag_keys=("pool",)) for name, text in GAUGES.items()}
        self._recorded: dict[str, PoolStatus] = {}

    def count(self, name: str, number: float = 1, pool: str = "") -> None:
        """Adds to one of ``COUNTERS``."""
        if number > 0:
            self._counters[name].inc(number, tags={"pool": pool})

    def show(self, name: str, value: float, pool: str = "") -> None:
        """Sets one of ``GAUGES``."""
        self._gauges[name].set(value, tags={"pool": pool})

    def record_pools(self, statuses: Mapping[str, PoolStatus]) -> None:
        """Updates the metrics of the pools."""
        for pool, status in statuses.items():
            recorded = self._recorded.get(pool)
            for name, field in POOL_COUNTERS.items():
                self.count(name, getattr(status, field) - getattr(recorded, field, 0), pool)
            for name, field in POOL_GAUGES.items():
                self.show(name, getattr(status, field), pool)
        self._recorded = dict(statuses)
