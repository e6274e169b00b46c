"""Several rewards with weights, and their syntax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tangoflux.errors import ConfigError
from tangoflux.reward_combination import Combination, combine
from tangoflux.rewards.protocol import Reward
from tangoflux.rewards.scoring import score


@dataclass(frozen=True)
class Term:
    """One term of a sum: its weight and the name of a reward."""

    weight: float
    name: str


@dataclass(frozen=True)
class Part:
    """One of several rewards, with its weight and a name that no other of them has."""

    weight: float
    reward: Reward
    name: str


class WeightedReward:
    """Several rewards, combined with their weights; NaN if any of them is, whatever its weight.

    Its name and checkpoint are the weighted sums of its parts' names and checkpoints, as text.
    """

    def __init__(self, weights: Sequence[float], rewards: Sequence[Reward], combination: Combination = "sum") -> None:
        """Needs a finite weight for each reward."""
        names = _distinct([reward.name for reward in rewards])
        self.parts = [Part(*part) for part in zip(weights, rewards, names, strict=True)]
        self.combination: Combination = combination
        total = _formatted([(part.weight, part.reward.name) for part in self.parts])
        self.name = total if combination == "sum" else f"{combination}({total})"
        self.checkpoint = _formatted([(part.weight, part.reward.checkpoint) for part in self.parts])

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        """The rewards (n,) of samples that, unless they are summed, are of one prompt; see ``combine``.

        Raises:
            RewardError: see ``score``.
        """
        return score_parts(self, prompts, waveforms, sample_rate_hz)[0]


def recombined(reward: Reward, combination: Combination) -> Reward:
    """The same rewards in another combination; a single reward stays as it is."""
    if not isinstance(reward, WeightedReward):
        return reward
    weights, rewards = zip(*((part.weight, part.reward) for part in reward.parts), strict=True)
    return WeightedReward(weights, rewards, combination)


def parts_of(reward: Reward) -> list[Part]:
    """The parts of several rewards; a single one is its own only part."""
    return reward.parts if isinstance(reward, WeightedReward) else [Part(1.0, reward, reward.name)]


def score_parts(
    reward: Reward, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The rewards (n,) of n waveforms, and the raw scores (parts, n) that they are made of; NaN where there is none.

    Raises:
        RewardError: see ``score``.
    """
    parts = parts_of(reward)
    scores = np.stack([score(part.reward, prompts, waveforms, sample_rate_hz) for part in parts])
    combination = reward.combination if isinstance(reward, WeightedReward) else "sum"
    return combine(scores, [part.weight for part in parts], combination), scores


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


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, of which a second ``clap`` becomes ``clap (2)``."""
    earlier = [names[:index].count(name) for index, name in enumerate(names)]
    return [f"{name} ({count + 1})" if count else name for name, count in zip(names, earlier, strict=True)]


def _formatted(parts: Sequence[tuple[float, str]]) -> str:
    return "+".join(f"{weight!r}*{name}" for weight, name in parts)
