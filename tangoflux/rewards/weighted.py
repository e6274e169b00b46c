"""Weighted sums of rewards, and their syntax."""

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
    """One term of a sum: its weight and the name of a reward."""

    weight: float
    name: str


class WeightedReward:
    """The weighted sum of rewards' scores; NaN if any of them is, whatever its weight.

    Its name and checkpoint are the weighted sums of its parts' names and checkpoints, as text.
    """

    def __init__(self, weights: Sequence[float], rewards: Sequence[Reward]) -> None:
        """Needs a finite weight for each reward."""
        self._parts = list(zip(weights, rewards, strict=True))
        self.name = _formatted([(weight, reward.name) for weight, reward in self._parts])
        self.checkpoint = _formatted([(weight, reward.checkpoint) for weight, reward in self._parts])

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
    """Parses ``0.7*a+0.3*b``; a name without a weight has weight 1.

    Raises:
        ConfigError: a weight is not a finite number, or a name is missing.
    """
    return [_parse_term(term, name) for term in name.split("+")]


def _parse_term(term: str, text: str) -> Term:
    weight, star, name = term.rpartition("*")
    if not name.strip():
        raise ConfigError(f"reward {text!r}: {term!r} names no reward; write a sum as 0.7*first+0.3*second")
    try:
        value = float(weight) if star else 1.0
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"reward {text!r}: weight {weight!r} is not a finite number; write 0.7*first+0.3*second")
    return Term(value, name.strip())


def _formatted(parts: Sequence[tuple[float, str]]) -> str:
    return "+".join(f"{weight!r}*{name}" for weight, name in parts)
