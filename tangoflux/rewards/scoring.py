"""Calling a reward, which may be a user's class, and ranking by what it returns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tangoflux.errors import RewardError
from tangoflux.rewards.protocol import Grader, Reward


def score(
    reward: Reward, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
) -> NDArray[np.float64]:
    """Scores n waveforms; the reward may return any sequence of n numbers.

    It gets copies of the waveforms: it may write to them, while the originals are shared, or read-only in Ray's object
    store.

    Returns:
        (n,) scores; NaN where the reward returned no finite number.

    Raises:
        RewardError: the reward raised an exception (the error's cause), or did not return n numbers.
    """
    try:
        returned = reward(prompts, [waveform.copy() for waveform in waveforms], sample_rate_hz)
        if np.iscomplexobj(returned):
            raise TypeError("complex numbers have no order")
        scores = np.array(returned, dtype=np.float64)
    except RewardError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        raise RewardError(f"reward {reward.name} failed: {type(error).__name__}: {error}") from error
    if scores.shape != (len(waveforms),):
        raise RewardError(f"reward {reward.name} returned rewards of shape {scores.shape} for {len(waveforms)} samples")
    scores[~np.isfinite(scores)] = np.nan
    return scores


def grade(
    grader: Grader, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
) -> list[dict[str, float]]:
    """The aspects of n waveforms, of which the grader gets copies.

    Returns:
        n rows with each of the grader's aspects; NaN where it has no finite number.

    Raises:
        RewardError: the grader raised an exception (the error's cause), or did not return n rows with its aspects.
    """
    try:
        returned = grader.grade(prompts, [waveform.copy() for waveform in waveforms], sample_rate_hz)
        rows = [{name: float(row[name]) for name in grader.aspects} for row in returned]
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        raise RewardError(f"detector {grader.name} failed: {type(error).__name__}: {error}") from error
    if len(rows) != len(waveforms):
        raise RewardError(f"detector {grader.name} returned aspects of {len(rows)} samples for {len(waveforms)}")
    return [{name: value if math.isfinite(value) else math.nan for name, value in row.items()} for row in rows]


def best_first(scores: Sequence[float] | NDArray[np.float64]) -> list[int]:
    """Indices of the scores, the highest first; NaN comes last, since a failure is not a score."""
    return sorted(range(len(scores)), key=lambda index: (math.isnan(scores[index]), -scores[index]))
