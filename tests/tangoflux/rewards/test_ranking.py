from __future__ import annotations

import numpy as np

from tangoflux.rewards.ranking import agreement, best_of, ranking_rows

NAN = float("nan")
REWARD = np.array([[0.1, 0.4, 0.3, 0.2], [0.5, 0.5, NAN, 0.9]])


def test_agreement_is_within_a_prompts_samples() -> None:
    value = np.array([[1.0, 4.0, 3.0, 2.0], [0.0, 0.0, 7.0, -1.0]])
    np.testing.assert_allclose(agreement(REWARD, value), [1.0, -1.0])
    np.testing.assert_allclose(agreement(np.add(REWARD, [[100.0], [-100.0]]), value), [1.0, -1.0])


def test_a_value_that_is_the_same_for_all_samples_has_no_agreement() -> None:
    assert np.isnan(agreement(REWARD, np.ones((2, 4)))).all()


def test_the_best_of_n_is_the_mean_over_runs_of_n_samples() -> None:
    value = np.arange(8.0).reshape(2, 4)
    assert best_of(REWARD, value, 4).tolist() == [1.0, 7.0]
    assert best_of(REWARD, value, 2).tolist() == [1.5, 5.5]  # a tie goes to the first, and no score is never the best


def test_each_reward_has_its_rows_beside_the_mean_sample() -> None:
    value = np.array([[1.0, NAN, 0.0, 0.5], [NAN, NAN, NAN, NAN]])
    rows = ranking_rows({"clap": REWARD}, {"recall": value}, (4,))
    assert list(rows) == ["mean sample", "agreement of clap", "best of 4 by clap"]
    np.testing.assert_array_equal(rows["mean sample"]["recall"], [0.5, NAN])
    np.testing.assert_array_equal(rows["best of 4 by clap"]["recall"], [NAN, NAN])
