"""How the scores of several rewards become one reward. Without torch, as the options need the names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Combination = Literal["sum", "normalised", "rank"]

CONSTANT = 1e-6
"""A reward whose scores in a group differ by no more than this share of the largest tells the samples not apart: models
that compute in float32 round by about a tenth of it."""

DECIMALS = 12
"""To these, relative rewards are rounded, so that samples that only rounding tells apart are tied."""


def combine(
    scores: NDArray[np.float64], weights: Sequence[float], combination: Combination = "sum"
) -> NDArray[np.float64]:
    """The reward of each sample of a group, the samples of one prompt.

    sum: the weighted sum of the scores as they are, so that a reward with a larger spread outweighs the others.

    normalised: each reward is first brought to mean 0 and standard deviation 1 within the group, as in GDPO (arXiv
    2601.05242, equation of the per-reward advantage). Without its epsilon, which would make a weight depend on the
    reward's unit, and without its second normalisation over the batch, which ranks no sample differently. A reward
    that is constant in the group adds 0.

    rank: each reward is first replaced by its rank within the group, from 0 for the lowest to 1 for the highest score;
    equal scores share their mean rank. With weights that sum to 1 this is the mean rank.

    A single sample cannot be compared, and a single reward needs no common scale: both keep their weighted sum.

    Args:
        scores: (rewards, samples); NaN where there is none.
        weights: one per reward.

    Returns:
        (samples,); NaN for a sample without a score from every reward, which the others are compared without.
    """
    scored = np.isfinite(scores).all(axis=0)
    group = scores[:, scored]
    is_relative = combination != "sum" and min(scores.shape) > 1
    if is_relative:
        group = np.stack([_SCALES[combination](row) for row in group])
    total = np.zeros(group.shape[1])
    for weight, row in zip(weights, group, strict=True):
        total += weight * row
    combined = np.full(len(scored), np.nan)
    combined[scored] = total.round(DECIMALS) if is_relative else total
    return combined


def _standardised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.zeros_like(scores) if _is_constant(scores) else (scores - scores.mean()) / scores.std()


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    if _is_constant(scores):
        return np.full_like(scores, 0.5)
    below = (scores[None] < scores[:, None]).sum(axis=1)
    above = (scores[None] > scores[:, None]).sum(axis=1)
    return (1 + (below - above) / (len(scores) - 1)) / 2


def _is_constant(scores: NDArray[np.float64]) -> bool:
    return len(scores) < 2 or bool(np.ptp(scores) <= CONSTANT * np.abs(scores).max())


_SCALES: dict[Combination, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "normalised": _standardised,
    "rank": _ranks,
}
