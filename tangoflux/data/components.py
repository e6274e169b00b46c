"""What the rewards that rollouts were ranked by said of them on average, each in its own unit."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(frozen=True)
class ComponentSums:
    """Sums over some rollouts, from which the means follow; sums of shards add up to those of an iteration.

    Attributes:
        totals: sum of the raw scores of each reward, by its name.
        counts: number of these scores; a rollout without one does not count.
    """

    totals: dict[str, float] = field(default_factory=dict[str, float])
    counts: dict[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def of(cls, rollouts: pa.Table) -> ComponentSums:
        """The sums of a table of ``rollout_schema``."""
        totals, counts = defaultdict[str, float](float), defaultdict[str, int](int)
        for components in rollouts["reward_components"].to_pylist():
            for component in components or ():
                totals[component["name"]] += component["score"] or 0.0
                counts[component["name"]] += component["score"] is not None
        return cls(dict(totals), dict(counts))

    def __add__(self, other: ComponentSums) -> ComponentSums:
        names = [*self.counts, *(name for name in other.counts if name not in self.counts)]
        return ComponentSums(
            {name: self.totals.get(name, 0.0) + other.totals.get(name, 0.0) for name in names},
            {name: self.counts.get(name, 0) + other.counts.get(name, 0) for name in names},
        )

    def means(self) -> dict[str, float | None]:
        """The mean score of each reward; None without any."""
        return {name: self.totals[name] / count if count else None for name, count in self.counts.items()}
