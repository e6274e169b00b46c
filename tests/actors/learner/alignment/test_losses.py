"""What a step computes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from actors.learner.alignment.groups import pair_groups
from actors.learner.alignment.losses import group_losses, metric_names
from actors.learner.alignment.reading import read_groups
from actors.learner.objectives import OBJECTIVES, make_objective
from tangoflux.model.layout import load_policy
from tests.actors.learner.random_groups import CRPO, KEY, SETTINGS, pairs, rollouts, stored


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_crpo_of_a_policy_that_equals_its_reference_is_log_2_and_the_winner_loss(
    tiny_policy_dir: Path, dtype: torch.dtype
):
    policy, reference = load_policy(tiny_policy_dir).to(dtype), load_policy(tiny_policy_dir).to(dtype)
    batch = pair_groups([pairs(3)]).batch([0, 1, 2], KEY)
    losses = group_losses(policy.train(), reference.requires_grad_(False), batch, CRPO)
    assert losses.metrics["margin"].tolist() == [0, 0, 0]
    torch.testing.assert_close(losses.loss, losses.terms["winner"] + math.log(2))
    assert losses.loss.requires_grad


def test_a_pair_has_the_same_losses_alone_and_in_a_batch(tiny_policy_dir: Path):
    policy = load_policy(tiny_policy_dir)
    data = pair_groups([pairs(3)])
    together = group_losses(policy, policy, data.batch([0, 1, 2], KEY), CRPO)
    for row in range(3):
        alone = group_losses(policy, policy, data.batch([row], KEY), CRPO)
        for name in ("winner_loss", "loser_loss"):
            torch.testing.assert_close(together.metrics[name][row], alone.metrics[name][0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_the_sum_of_its_weighted_terms(name: str, tiny_policy_dir: Path, tmp_path: Path):
    objective = make_objective(name, {"winner_weight": 0.5, "anchor_weight": 2.0})
    data = read_groups(stored(tmp_path, rollouts(2)), dataclasses.replace(SETTINGS, objective=objective))
    policy, reference = load_policy(tiny_policy_dir), load_policy(tiny_policy_dir)
    with torch.no_grad():
        next(policy.fc.parameters()).add_(0.1)
    losses = group_losses(policy, reference, data.batch([0, 1], KEY), objective)
    own, winner, anchor = losses.terms.values()
    assert list(losses.terms) == [objective.info.term, "winner", "anchor"] and anchor.min() > 0
    torch.testing.assert_close(losses.loss, own + 0.5 * winner + 2 * anchor)
    assert tuple(losses.metrics) == metric_names(objective, data.trains_on_worst)
    torch.testing.assert_close(losses.metrics["winner_loss"], winner)
