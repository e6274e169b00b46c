import math

import pytest
import torch

from tangoflux.losses import crpo_loss, dpo_fm_loss, flow_matching_loss


def test_flow_matching_averages_each_row_over_its_own_frames_only() -> None:
    velocity, target = torch.randn(2, 2, 6, 3)
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    loss = flow_matching_loss(velocity, target, mask)
    expected = [((velocity[row] - target[row])[:frames] ** 2).mean() for row, frames in ((0, 6), (1, 2))]
    torch.testing.assert_close(loss, torch.stack(expected))


def test_crpo_of_a_policy_equal_to_its_reference_is_log_2_plus_the_winner_loss() -> None:
    winner, loser = torch.rand(2, 8, dtype=torch.float64)
    loss = crpo_loss(winner, loser, winner, loser, beta=2000)
    torch.testing.assert_close(loss, math.log(2) + winner)


@pytest.mark.parametrize(("change", "sign"), [(-0.01, -1), (0.01, 1)])
def test_dpo_falls_as_the_winner_improves_over_the_reference(change: float, sign: int) -> None:
    winner, loser = torch.rand(2, 8, dtype=torch.float64)
    loss = dpo_fm_loss(winner + change, loser, winner, loser, beta=2000)
    expected = math.log1p(math.exp(1000 * change))  # -log sigmoid(-beta/2 * change)
    torch.testing.assert_close(loss, torch.full((8,), expected, dtype=torch.float64))
    assert ((loss - math.log(2)) * sign > 0).all()


def test_gradients_raise_the_losers_loss_and_lower_the_winners() -> None:
    winner, loser = torch.rand(4, requires_grad=True), torch.rand(4, requires_grad=True)
    dpo_fm_loss(winner, loser, winner.detach(), loser.detach(), beta=10).sum().backward()
    torch.testing.assert_close(winner.grad, torch.full((4,), 2.5))
    torch.testing.assert_close(loser.grad, torch.full((4,), -2.5))
