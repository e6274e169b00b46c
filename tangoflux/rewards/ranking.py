"""How well a reward ranks the samples of one prompt: what it agrees with, and what the best of N by it is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tangoflux.estimates import row_means
from tangoflux.rewards.scoring import best_first

Groups = NDArray[np.float64]
"""(P, N) numbers of N samples of each of P prompts; NaN where there is none."""


def agreement(reward: Groups, value: Groups) -> NDArray[np.float64]:
    """(P,) Pearson's correlation within each prompt's samples; NaN where either is the same for all of them."""
    return np.array([_correlation(*pair) for pair in zip(reward, value, strict=True)])


def best_of(reward: Groups, value: Groups, n: int) -> NDArray[np.float64]:
    """(P,) the mean value of the best by ``reward`` in each run of ``n`` samples, as many as fit in the N."""
    chosen = [
        [row[first + best_first(scores[first : first + n])[0]] for first in range(0, len(row) - n + 1, n)]
        for scores, row in zip(reward, value, strict=True)
    ]
    return row_means(np.array(chosen))


def ranking_rows(
    rewards: Mapping[str, Groups], values: Mapping[str, Groups], sizes: tuple[int, ...]
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """A row for the mean sample, and for each reward the agreement with each value and the best of each size.

    Returns:
        by the row's label and the value's name the figure of each prompt, (P,).
    """
    rows = {"mean sample": {name: row_means(value) for name, value in values.items()}}
    for reward, scores in rewards.items():
        rows[f"agreement of {reward}"] = {name: agreement(scores, value) for name, value in values.items()}
        for size in sizes:
            rows[f"best of {size} by {reward}"] = {name: best_of(scores, value, size) for name, value in values.items()}
    return rows


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 2 or np.ptp(first[both]) == 0 or np.ptp(second[both]) == 0:
        return math.nan
    return float(np.corrcoef(first[both], second[both])[0, 1])
