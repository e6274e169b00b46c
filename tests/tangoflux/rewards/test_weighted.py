"""Sums of rewards, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tangoflux.errors import ConfigError, RewardError
from tangoflux.reward_combination import Combination
from tangoflux.rewards import Reward, WeightedReward, check_reward, load_reward, parts_of, recombined, score_parts

AUDIO = [np.full((1, 8), value, np.float32) for value in (0.5, -0.25)]


class Mean:
    """A reward of a user's own."""

    name, checkpoint = "mean", "m1"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        return np.array([waveform.mean() for waveform in waveforms], np.float64)


class Positive(Mean):
    """Has no score for what is negative."""

    name, checkpoint = "positive", "p1"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        scores = super().__call__(prompts, waveforms, sample_rate_hz)
        return np.where(scores > 0, scores, np.nan)


class Scalar(Mean):
    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        return np.zeros(1)


MEAN, POSITIVE = f"{__name__}:Mean", f"{__name__}:Positive"


def test_a_sum_weighs_its_parts_and_has_no_score_where_one_has_none() -> None:
    name = f"0.5*{MEAN} + 2*{POSITIVE}"
    check_reward(name)
    reward = load_reward(name)
    assert isinstance(reward, WeightedReward) and isinstance(reward, Reward)
    np.testing.assert_array_equal(reward(["a", "b"], AUDIO, 16_000), [1.25, np.nan])
    assert reward([], [], 16_000).shape == (0,)


def test_a_weight_of_nought_hides_no_missing_score() -> None:
    scores = load_reward(f"0*{POSITIVE}+1*{MEAN}")(["a", "b"], AUDIO, 16_000)
    np.testing.assert_array_equal(scores, [0.5, np.nan])


def test_a_name_alone_is_itself_and_in_a_sum_has_weight_one() -> None:
    assert isinstance(load_reward(MEAN), Mean) and isinstance(load_reward(f"1*{MEAN}"), Mean)
    np.testing.assert_array_equal(load_reward(f"{MEAN}+-3*{MEAN}")(["a", "b"], AUDIO, 16_000), [-1.0, 0.5])
    np.testing.assert_array_equal(load_reward(f"2*{MEAN}")(["a", "b"], AUDIO, 16_000), [1.0, -0.5])


@pytest.mark.parametrize(("combination", "expected"), [("normalised", [0.0, 0.0]), ("rank", [0.5, 0.5])])
def test_a_call_of_a_relative_combination_is_a_group(combination: Combination, expected: list[float]) -> None:
    reward = load_reward(f"1*{MEAN}+-1*{MEAN}", combination=combination)
    assert reward.name == f"{combination}(1.0*mean+-1.0*mean)"
    np.testing.assert_array_equal(reward(["a", "a"], AUDIO, 16_000), np.array(expected) - expected)
    first = load_reward(f"1*{MEAN}+0*{MEAN}", combination=combination)(["a", "a"], AUDIO, 16_000)
    np.testing.assert_allclose(first, {"normalised": [1, -1], "rank": [1, 0]}[combination])


def test_a_reward_alone_is_not_made_relative() -> None:
    assert load_reward(f"2*{MEAN}", combination="rank")(["a", "a"], AUDIO, 16_000).tolist() == [1.0, -0.5]
    assert load_reward(MEAN, combination="rank").name == "mean"


def test_the_raw_scores_of_all_parts_come_with_the_rewards() -> None:
    reward = load_reward(f"0.5*{MEAN}+2*{POSITIVE}+1*{MEAN}")
    rewards, scores = score_parts(recombined(reward, "rank"), ["a", "a"], AUDIO, 16_000)
    np.testing.assert_array_equal(scores, [[0.5, -0.25], [0.5, np.nan], [0.5, -0.25]])
    np.testing.assert_array_equal(np.isnan(rewards), [False, True])
    assert [part.name for part in parts_of(reward)] == ["mean", "positive", "mean (2)"]
    alone = load_reward(MEAN)
    assert recombined(alone, "rank") is alone
    np.testing.assert_array_equal(score_parts(alone, ["a", "a"], AUDIO, 16_000)[1], [[0.5, -0.25]])


def test_name_and_checkpoint_tell_sums_apart() -> None:
    first, second = load_reward(f"0.7*{MEAN}+0.3*{POSITIVE}"), load_reward(f"0.3*{MEAN}+0.7*{POSITIVE}")
    assert (first.name, first.checkpoint) == ("0.7*mean+0.3*positive", "0.7*m1+0.3*p1")
    assert second.checkpoint == "0.3*m1+0.7*p1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"nan*{MEAN}+1*{MEAN}", "weight 'nan' is not a finite number"),
        (f"inf*{MEAN}", "weight 'inf' is not a finite number"),
        (f"half*{MEAN}", "weight 'half' is not a finite number"),
        (f"*{MEAN}", "weight '' is not a finite number"),
        (f"0.5*{MEAN}+", "'' names no reward; write a sum as 0.7"),
        ("0.5*", "'0.5\\*' names no reward"),
        ("", "names no reward"),
        (f"0.5*{MEAN}+0.5*miniature-clapp", "'miniature-clapp' is none of"),
        (f"0.5*0.5*{MEAN}", "weight '0.5\\*0.5' is not"),
    ],
)
def test_a_sum_that_cannot_be_read_is_refused_in_one_line(name: str, message: str) -> None:
    for refused in (check_reward, load_reward):
        with pytest.raises(ConfigError, match=message) as caught:
            refused(name)
        assert "\n" not in str(caught.value)


def test_scores_of_another_shape_are_never_spread_over_the_group() -> None:
    with pytest.raises(RewardError, match=r"shape \(1,\) for 2 samples"):
        load_reward(f"0.5*{__name__}:Scalar+0.5*{MEAN}")(["a", "b"], AUDIO, 16_000)
