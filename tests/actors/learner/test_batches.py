"""What a step sees: the order of the pairs, each rank's share, and the noise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from actors.learner.alignment.groups import pair_groups
from actors.learner.batches import epoch_order, group_sigma, largest_margins, rank_share, split_heldout
from tests.actors.learner.random_groups import KEY, SETTINGS, pairs


def test_an_epoch_sees_every_training_pair_once_in_an_order_of_its_own():
    rows, heldout = split_heldout(41, 3, seed=0, iteration=1)
    first, second = epoch_order(rows, (0, 1, 1)), epoch_order(rows, (0, 1, 2))
    assert sorted(first) == sorted(second) == rows
    assert first != second
    assert first == epoch_order(rows, (0, 1, 1))
    assert sorted(rows + heldout) == list(range(41))


@pytest.mark.parametrize(("count", "expected"), [(41, 3), (17, 2), (8, 1), (7, 0), (1, 0)])
def test_at_most_an_eighth_of_the_pairs_is_held_out(count: int, expected: int):
    rows, heldout = split_heldout(count, 3, seed=0, iteration=1)
    assert (len(rows), len(heldout)) == (count - expected, expected)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("in_batch", [1, 5, 6])
def test_the_ranks_share_every_global_batch_in_equally_many_micro_steps(workers: int, in_batch: int):
    settings = dataclasses.replace(SETTINGS, workers=workers)
    shares = [rank_share(list(range(in_batch)), settings, rank) for rank in range(workers)]
    assert sorted(row for share in shares for rows in share for row in rows) == list(range(in_batch))
    assert len({len(share) for share in shares}) == 1
    assert max(len(rows) for share in shares for rows in share) <= settings.micro_batch_size


def test_the_noise_of_a_pair_depends_on_run_iteration_epoch_and_pair_only():
    data = pair_groups([pairs(5)])
    together, alone = data.batch([0, 3], KEY), data.batch([3], KEY)
    assert torch.equal(together.noise[1, :16], alone.noise[0, :16])
    assert torch.equal(together.sigma[1:], alone.sigma)
    draws = {float(group_sigma(key, pair)) for key in (KEY, (1, 1, 1), (0, 2, 1), (0, 1, 2)) for pair in "ab"}
    assert len(draws) == 8


def test_with_a_bound_sigmas_are_those_of_the_steps_that_drew_the_samples():
    drawn = {round(float(group_sigma(KEY, f"pair {i}", num_steps=6, min_sigma=0.6)), 3) for i in range(64)}
    assert drawn == {1.0, 0.833, 0.667}


def test_pairs_that_no_policy_drew_have_the_papers_sigmas():
    assert float(group_sigma(KEY, "pair", None, min_sigma=0.6)) == float(group_sigma(KEY, "pair"))


def test_a_bound_on_sigma_leaves_the_noise_as_it_is():
    data = pair_groups([pairs(8)])
    everywhere, high = (data.batch(range(8), KEY, min_sigma=bound) for bound in (None, 0.6))
    assert torch.equal(everywhere.noise, high.noise)
    assert everywhere.sigma.min() < 0.6 <= high.sigma.min()


def test_the_groups_with_the_largest_margins_are_trained_on():
    margins = np.array([0.1, 0.5, 0.3, 0.2, 9.0])
    assert largest_margins([0, 1, 2, 3], margins, 0.5) == [1, 2]
    assert largest_margins([0, 1, 2], margins, 0.5) == [1, 2], "rounded up"
    assert largest_margins([0, 1, 2, 3], margins, 1.0) == [0, 1, 2, 3]


def test_where_a_margin_is_unknown_all_groups_are_trained_on():
    assert largest_margins([0, 1, 2], np.array([0.1, np.nan, 0.3]), 0.5) == [0, 1, 2]
