"""Early signs of a collapsing policy: statistics of the samples, from tables of rollouts."""

# pyarrow has no type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportAttributeAccessIssue=false
from __future__ import annotations

from dataclasses import astuple, dataclass
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


@dataclass(frozen=True)
class HealthSums:
    """Sums over some rollouts, from which ``SampleHealth`` follows; sums of shards add up to those of an iteration."""

    samples: int = 0
    silent: int = 0
    clipped: int = 0
    scored_groups: int = 0
    spread: float = 0.0
    sample_pairs: int = 0
    distance: float = 0.0
    numbers: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, rollouts: pa.Table) -> HealthSums:
        """The sums of a table of ``rollout_schema`` that holds complete groups."""
        ordered = rollouts.take(pc.sort_indices(rollouts, [(name, "ascending") for name in SORT_KEYS]))
        sums = cls(
            samples=len(ordered),
            silent=int((ordered["rms"].to_numpy() < SILENT_RMS).sum()),
            clipped=int((ordered["peak"].to_numpy() >= CLIPPED_PEAK).sum()),
        )
        rewards = pc.fill_null(ordered["reward"], float("nan")).to_numpy()
        latents, frames = latents_array(ordered["latents"]), ordered["num_frames"].to_numpy()
        for first, last in group_bounds(ordered):
            sums += _group_sums(latents[first:last, : frames[first]].astype(np.float64), rewards[first:last])
        return sums

    def __add__(self, other: HealthSums) -> HealthSums:
        return HealthSums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def health(self) -> SampleHealth:
        """The figures over all that was added."""
        return SampleHealth(
            group_spread=_ratio(self.spread, self.scored_groups),
            diversity=self._diversity(),
            silent_share=_ratio(self.silent, self.samples),
            clipped_share=_ratio(self.clipped, self.samples),
        )

    def _diversity(self) -> float | None:
        distance = _ratio(self.distance, self.sample_pairs)
        if distance is None:
            return None
        variance = self.squares / self.numbers - (self.total / self.numbers) ** 2
        return distance / variance**0.5 if variance > 0 else 0.0


def _group_sums(latents: NDArray[Any], rewards: NDArray[Any]) -> HealthSums:
    distances = [float(np.sqrt(np.mean((a - b) ** 2))) for a, b in combinations(latents, 2)]
    is_scored = len(rewards) > 1 and bool(np.isfinite(rewards).all())
    return HealthSums(
        scored_groups=int(is_scored),
        spread=float(rewards.std()) if is_scored else 0.0,
        sample_pairs=len(distances),
        distance=sum(distances),
        numbers=latents.size,
        total=float(latents.sum()),
        squares=float((latents**2).sum()),
    )


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None
