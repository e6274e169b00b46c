"""What several rewards of a group make together."""

from __future__ import annotations

import numpy as np
import pytest

from tangoflux.reward_combination import Combination, combine

CLAP, SHARE = [0.30, 0.35, 0.20, 0.40], [1.0, 0.0, 0.5, 0.5]
SCORES = np.array([CLAP, SHARE])
RELATIVE: list[Combination] = ["normalised", "rank"]


def test_a_sum_weighs_the_scores_as_they_are() -> None:
    np.testing.assert_array_equal(combine(SCORES, [0.7, 0.3]), 0.7 * SCORES[0] + 0.3 * SCORES[1])


def test_normalised_rewards_weigh_as_much_as_their_weights_say() -> None:
    """A sum would follow the second reward, whose spread is five times as large."""
    weights = [1.0, 0.8]
    combined = combine(SCORES, weights, "normalised")
    expected = sum(weight * (row - row.mean()) / row.std() for weight, row in zip(weights, SCORES, strict=True))
    np.testing.assert_allclose(combined, expected, atol=1e-12)
    assert combined.argmax() == 3 and combine(SCORES, weights).argmax() == 0


def test_ranks_go_from_nought_to_one_and_equal_scores_share_theirs() -> None:
    np.testing.assert_allclose(combine(SCORES, [1.0, 0.0], "rank"), np.array([1, 2, 0, 3]) / 3)
    np.testing.assert_allclose(combine(SCORES, [0.0, 1.0], "rank"), [1.0, 0.0, 0.5, 0.5])
    np.testing.assert_allclose(combine(SCORES, [0.5, 0.5], "rank"), [2 / 3, 1 / 3, 1 / 4, 3 / 4])


@pytest.mark.parametrize("combination", RELATIVE)
def test_unit_and_offset_of_a_reward_do_not_matter(combination: Combination) -> None:
    other = np.array([1000 * SCORES[0] - 7, SCORES[1]])
    np.testing.assert_allclose(combine(other, [0.7, 0.3], combination), combine(SCORES, [0.7, 0.3], combination))


@pytest.mark.parametrize("combination", RELATIVE)
def test_a_negative_weight_prefers_low_scores(combination: Combination) -> None:
    assert combine(SCORES, [-1.0, 0.0], combination).argmax() == 2


@pytest.mark.parametrize("combination", RELATIVE)
@pytest.mark.parametrize("constant", [[0.0] * 4, [-3.5] * 4, [0.2, 0.2 + 1e-8, 0.2, 0.2 - 1e-8]])
def test_a_reward_that_is_constant_but_for_rounding_does_not_rank(
    combination: Combination, constant: list[float]
) -> None:
    combined = combine(np.array([CLAP, constant]), [1.0, 5.0], combination)
    alone = combine(np.array([CLAP, [0.0] * 4]), [1.0, 5.0], combination)
    np.testing.assert_array_equal(combined, alone)
    assert combine(np.array([constant, constant]), [1.0, 5.0], combination).std() == 0


@pytest.mark.parametrize("combination", RELATIVE)
def test_samples_that_two_rewards_rank_the_other_way_round_are_tied(combination: Combination) -> None:
    rng = np.random.default_rng(0)
    for first, second in rng.normal(size=(100, 2, 2)):
        pair = np.array([np.sort(first), np.sort(second)[::-1]])
        combined = combine(pair, [0.3, 0.3], combination)
        assert combined[0] == combined[1]


@pytest.mark.parametrize("combination", ["sum", *RELATIVE])
def test_a_sample_without_one_score_has_no_reward_and_does_not_count_for_the_others(combination: Combination) -> None:
    missing = np.array([[0.3, np.nan, 0.2, 0.4], [1.0, 0.0, 0.5, np.nan]])
    combined = combine(missing, [0.7, 0.3], combination)
    np.testing.assert_array_equal(np.isnan(combined), [False, True, False, True])
    np.testing.assert_array_equal(combined[[0, 2]], combine(missing[:, [0, 2]], [0.7, 0.3], combination))
    assert np.isnan(combine(np.full((2, 3), np.nan), [0.7, 0.3], combination)).all()


@pytest.mark.parametrize("combination", ["sum", *RELATIVE])
def test_a_single_sample_or_reward_keeps_its_weighted_sum(combination: Combination) -> None:
    np.testing.assert_array_equal(combine(SCORES[:, :1], [0.7, 0.3], combination), [0.7 * 0.30 + 0.3])
    np.testing.assert_array_equal(combine(SCORES[:1], [2.0], combination), 2 * SCORES[0])
    assert combine(np.zeros((2, 0)), [0.7, 0.3], combination).shape == (0,)
