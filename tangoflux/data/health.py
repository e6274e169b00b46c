"""Early signs of a collapsing policy: statistics of the samples, from tables of rollouts."""

# pyarrow has no type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportAttributeAccessIssue=false
from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tangoflux.data.preferences import group_bounds
from tangoflux.data.records import SORT_KEYS, latents_array

SILENT_RMS = 1e-3
"""A waveform below this RMS (-60 dBFS) counts as silent."""

CLIPPED_PEAK = 0.999
"""A waveform that reaches this peak counts as clipped."""


@dataclass(frozen=True)
class SampleHealth:
    """Statistics of a set of samples; None if there is nothing to compute them from.

    Attributes:
        group_spread: mean standard deviation of the reward within a group, over groups without failures; falls to 0
            when all samples of a prompt get the same reward.
        diversity: mean distance of two samples of a group (root mean square over their latents) in units of the
            standard deviation of all latents: about 1.4 for unrelated latents, 0 for equal ones.
        silent_share: share of samples with an RMS below ``SILENT_RMS``.
        clipped_share: share of samples with a peak of at least ``CLIPPED_PEAK``.
    """

    group_spread: float | None
    diversity: float | None
    silent_share: float | None
    clipped_share: float | None


class HealthMeter:
    """Accumulates tables of rollouts, so that an iteration's shards need not be in memory together."""

    def __init__(self) -> None:
        self._samples = self._silent = self._clipped = 0
        self._spreads: list[float] = []
        self._distances: list[float] = []
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, rollouts: pa.Table) -> None:
        """Adds a table of ``rollout_schema`` with complete groups."""
        ordered = rollouts.take(pc.sort_indices(rollouts, [(name, "ascending") for name in SORT_KEYS]))
        self._samples += len(ordered)
        self._silent += int((ordered["rms"].to_numpy() < SILENT_RMS).sum())
        self._clipped += int((ordered["peak"].to_numpy() >= CLIPPED_PEAK).sum())
        rewards = pc.fill_null(ordered["reward"], float("nan")).to_numpy()
        latents, frames = latents_array(ordered["latents"]), ordered["num_frames"].to_numpy()
        for first, last in group_bounds(ordered):
            self._add_group(latents[first:last, : frames[first]].astype(np.float64), rewards[first:last])

    def result(self) -> SampleHealth:
        """The statistics of all tables added."""
        return SampleHealth(
            group_spread=_mean(self._spreads),
            diversity=self._diversity(),
            silent_share=self._silent / self._samples if self._samples else None,
            clipped_share=self._clipped / self._samples if self._samples else None,
        )

    def _add_group(self, latents: NDArray[Any], rewards: NDArray[Any]) -> None:
        if len(rewards) > 1 and np.isfinite(rewards).all():
            self._spreads.append(float(rewards.std()))
        self._distances += [float(np.sqrt(np.mean((a - b) ** 2))) for a, b in combinations(latents, 2)]
        self._count += latents.size
        self._sum += float(latents.sum())
        self._squares += float((latents**2).sum())

    def _diversity(self) -> float | None:
        distance = _mean(self._distances)
        if distance is None:
            return None
        variance = self._squares / self._count - (self._sum / self._count) ** 2
        return distance / variance**0.5 if variance > 0 else 0.0


def sample_health(rollouts: pa.Table) -> SampleHealth:
    """The statistics of one table."""
    meter = HealthMeter()
    meter.add(rollouts)
    return meter.result()


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
