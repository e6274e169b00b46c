from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tangoflux.errors import RewardError
from tangoflux.rewards import best_first, score

WAVEFORMS = [np.full((1, 8), value, np.float32) for value in (0.25, 0.5, 0.75)]


class Returning:
    """A reward as users write them: it returns whatever it was made with."""

    name, checkpoint = "mine", ""

    def __init__(self, returned: Any) -> None:
        self.returned = returned

    def __call__(self, prompts: Sequence[str], waveforms: Sequence[Any], sample_rate_hz: int) -> Any:
        if isinstance(self.returned, BaseException):
            raise self.returned
        for waveform in waveforms:
            waveform[:] = 0
        return self.returned


def scores_of(returned: Any) -> Any:
    return score(Returning(returned), ["a dog"] * 3, WAVEFORMS, 16_000)


@pytest.mark.parametrize(
    "returned", [[1, 2.5, 3], (1.0, 2.5, 3.0), np.array([1, 2.5, 3], np.float32), [np.float32(1), 2.5, 3]]
)
def test_any_sequence_of_numbers_becomes_float64(returned: Any) -> None:
    scores = scores_of(returned)
    assert scores.dtype == np.float64 and scores.tolist() == [1.0, 2.5, 3.0]


def test_a_number_that_is_not_finite_is_no_score() -> None:
    np.testing.assert_array_equal(scores_of([math.inf, 1, -math.inf]), [np.nan, 1, np.nan])


@pytest.mark.parametrize("returned", [None, 0.5, [1.0, 2.0], [[1.0], [2.0], [3.0]]])
def test_other_shapes_are_refused(returned: Any) -> None:
    with pytest.raises(RewardError, match=r"^reward mine returned rewards of shape .* for 3 samples$"):
        scores_of(returned)


@pytest.mark.parametrize(
    "returned",
    [
        ZeroDivisionError("division by zero"),
        SystemExit(3),
        ["a", "b", "c"],
        [[1], 2, 3],
        [1j, 2, 3],
        torch.ones(3, requires_grad=True),
        torch.ones(3, device="meta"),
    ],
)
def test_what_a_users_code_raises_or_returns_becomes_a_reward_error_with_its_cause(returned: Any) -> None:
    with pytest.raises(RewardError, match=r"^reward mine failed: ") as caught:
        scores_of(returned)
    assert isinstance(caught.value.__cause__, BaseException)


def test_a_reward_that_writes_to_waveforms_writes_to_copies_even_of_read_only_ones() -> None:
    WAVEFORMS[1].setflags(write=False)
    scores_of([1, 2, 3])
    assert [float(waveform.mean()) for waveform in WAVEFORMS] == [0.25, 0.5, 0.75]


def test_the_highest_score_is_first_and_a_missing_one_last() -> None:
    assert best_first([0.1, math.nan, 0.9, -2.0, 0.9]) == [2, 4, 0, 3, 1]
