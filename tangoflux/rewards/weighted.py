"""Several rewards at once: their weighted sum, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tangoflux.errors import ConfigError
from tangoflux.rewards.protocol import Reward
from tangoflux.rewards.scoring import score


@dataclass(frozen=True)
class Term:
    """One part of a sum: its weight, and the name of a reward or the reward itself."""

    weight: float
    name: str


class WeightedReward:
    """The weighted sum of rewards' scores; NaN where any of them is, whatever its weight.

    Its name is the sum of the parts' names, its checkpoint that of the parts' checkpoints, each with its weight.
    """

    def __init__(self, weights: Sequence[float], rewards: Sequence[Reward]) -> None:
        """Takes as many finite weights as rewards."""
        self._parts = list(zip(weights, rewards, strict=True))
        self.name = _written([(weight, reward.name) for weight, reward in self._parts])
        self.checkpoint = _written([(weight, reward.checkpoint) for weight, reward in self._parts])

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        """Weighted sums, (n,); see ``Reward``.

        Raises:
            RewardError: see ``score``.
        """
        total = np.zeros(len(prompts))
        for weight, reward in self._parts:
            total += weight * score(reward, prompts, waveforms, sample_rate_hz)
        return total


def parse_terms(name: str) -> list[Term]:
    """Reads ``0.7*a+0.3*b``; a name without a weight has weight 1.

    Raises:
        ConfigError: a weight is no finite number, or a name is missing.
    """
    return [_parse_term(term, name) for term in name.split("+")]


def _parse_term(term: str, whole: str) -> Term:
    weight, star, name = term.rpartition("*")
    if not name.strip():
        raise ConfigError(f"reward {whole!r}: {term!r} names no reward; write a sum as 0.7*first+0.3*second")
    try:
        value = float(weight) if star else 1.0
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"reward {whole!r}: weight {weight!r} is not a finite number; write 0.7*first+0.3*second")
    return Term(value, name.strip())


def _written(parts: Sequence[tuple[float, str]]) -> str:
    return "+".join(f"{weight!r}*{text}" for weight, text in parts)
