"""The mathematics of the objectives, in float64, as identities; and the options that each has."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.learner.alignment.losses import losses_of
from actors.learner.objectives import OBJECTIVES, OWN_OPTIONS, GroupErrors, load_term, make_objective
from actors.learner.objectives.diffusion_nft import mixed_error
from tangoflux.errors import ConfigError
from tangoflux.losses import crpo_loss, dpo_fm_loss, group_advantages, implicit_margin

GROUPS, SAMPLES, NUMBERS = 3, 4, 50


class Case:
    """Velocities of policy, reference and target at K samples of some groups, and the errors that follow from them."""

    def __init__(self, samples: int = SAMPLES, moved: float = 0.3, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (samples, GROUPS, NUMBERS)
        self.target, self.reference, change = (
            torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)
        )
        self.policy = (self.reference + moved * change).requires_grad_()
        self.rewards = torch.randn(samples, GROUPS, generator=generator, dtype=torch.float64).sort(0, True).values
        self.sigma = torch.rand(GROUPS, generator=generator, dtype=torch.float64)

    def errors(self) -> GroupErrors:
        compared = ((self.policy, self.target), (self.reference, self.target), (self.policy, self.reference))
        policy, reference, distance = ((first - second).square().mean(dim=-1) for first, second in compared)
        return GroupErrors(policy, reference, distance, self.sigma, self.rewards)

    def term(self, name: str, **given: Any) -> Tensor:
        return load_term(name)(self.errors(), **make_objective(name, given).options)

    def gradient(self, name: str, **given: Any) -> Tensor:
        """Of the mean over the groups, by the policy's velocities."""
        [gradient] = torch.autograd.grad(self.term(name, **given).mean(), self.policy)
        return gradient


def advantage_weighted_gradient(case: Case) -> Tensor:
    """Of the mean of A * L over samples and groups."""
    [gradient] = torch.autograd.grad((group_advantages(case.rewards) * case.errors().policy).mean(), case.policy)
    return gradient


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_a_finite_term_for_each_group_and_a_gradient(name: str) -> None:
    case = Case()
    assert case.term(name).shape == (GROUPS,) and case.term(name).isfinite().all()
    assert case.gradient(name).isfinite().all() and case.gradient(name)[0].any()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_groups_term_is_the_same_alone(name: str) -> None:
    whole = Case()
    errors = whole.errors()
    alone = GroupErrors._make(part[..., 1:2] for part in errors)
    options = make_objective(name, {}).options
    torch.testing.assert_close(load_term(name)(alone, **options), load_term(name)(errors, **options)[1:2])


def test_advantages_have_mean_0_and_deviation_1_and_two_are_1_and_minus_1() -> None:
    advantages = group_advantages(torch.rand(5, 3))
    torch.testing.assert_close(advantages.mean(dim=0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(advantages.std(dim=0, correction=0), torch.ones(3, dtype=torch.float64))
    assert group_advantages(torch.tensor([[0.3], [0.1]])).flatten().tolist() == [1, -1]
    assert group_advantages(torch.rand(9, 3), clip=0.5).abs().max() == 0.5


# Pairs


@pytest.mark.parametrize("name", ["crpo", "dgpo"])
def test_of_two_samples_the_term_is_that_of_dpo_fm(name: str) -> None:
    case = Case(samples=2)
    policy, reference = case.errors().policy, case.errors().reference
    expected = dpo_fm_loss(policy[0], policy[1], reference[0], reference[1], beta=20)
    torch.testing.assert_close(case.term(name, beta=20), expected)


def test_the_objective_crpo_is_the_loss_that_is_compared_with_the_published_code() -> None:
    errors = Case(samples=2).errors()
    loss = losses_of(errors, make_objective("crpo", {"beta": 2000.0, "winner_weight": 1.0})).loss
    torch.testing.assert_close(loss, crpo_loss(*errors.policy, *errors.reference, beta=2000.0), rtol=0, atol=0)


def test_ipo_is_least_where_the_margin_is_a_half() -> None:
    case = Case(samples=2)
    errors = case.errors()
    gap = (errors.reference[0] - errors.reference[1]).detach()
    winner, loser = errors.policy.detach() + gap.new_zeros(2, 1)
    beta = 1 / (gap - (winner - loser))  # so that -beta/2 * ((winner - loser) - gap) = 1/2
    losses = torch.stack([case.term("ipo", beta=float(value))[row] for row, value in enumerate(beta)])
    torch.testing.assert_close(losses, torch.zeros_like(losses))
    (winner, loser), (ref_winner, ref_loser) = errors.policy, errors.reference
    margin = implicit_margin(winner, loser, ref_winner, ref_loser, 20.0)
    torch.testing.assert_close(case.term("ipo", beta=20), (margin - 0.5).square())


def test_ipo_and_dpo_fm_have_gradients_in_the_same_direction_at_the_reference() -> None:
    case = Case(moved=0)
    # d/dm of (m - 1/2)^2 is -1 and of -log sigmoid(m) -1/2 at m = 0.
    torch.testing.assert_close(case.gradient("ipo"), 2 * case.gradient("dpo_fm"))


# Groups


def test_kto_is_a_half_at_the_reference_and_draws_the_better_samples_nearer() -> None:
    case = Case(moved=0)
    torch.testing.assert_close(case.term("kto"), torch.full((GROUPS,), 0.5, dtype=torch.float64))
    sign = torch.where(group_advantages(case.rewards) > 0, 1.0, -1.0)
    [expected] = torch.autograd.grad((sign * case.errors().policy).mean(), case.policy)
    # U' is 1/4, and the reward -beta/2 of the error.
    torch.testing.assert_close(case.gradient("kto", beta=8), expected)


def test_kto_judges_a_gain_by_the_groups_mean_gain() -> None:
    case = Case()
    errors = case.errors()
    gain = -4 * (errors.policy - errors.reference)
    point = gain.mean(dim=0).clamp(min=0)
    sign = torch.where(group_advantages(case.rewards) > 0, 1.0, -1.0)
    expected = (1 - torch.sigmoid(sign * (gain - point))).mean(dim=0)
    torch.testing.assert_close(case.term("kto", beta=8), expected)


def test_the_single_best_is_trained_by_the_winners_flow_matching() -> None:
    assert make_objective("expert_iteration", {}).ranks(SAMPLES) == (0,)
    case = Case()
    errors = case.errors()
    best = errors._replace(policy=errors.policy[:1])
    torch.testing.assert_close(load_term("expert_iteration")(best, top_k=1, temperature=None), errors.policy[0])


@pytest.mark.parametrize(("temperature", "expected"), [(1e-9, "best"), (1e9, "all")])
def test_the_temperature_leads_from_the_best_to_all_samples(temperature: float, expected: str) -> None:
    case = Case()
    of = {"best": case.errors().policy[0], "all": case.errors().policy.mean(dim=0)}
    torch.testing.assert_close(case.term("expert_iteration", top_k=0, temperature=temperature), of[expected])


def test_dgpo_is_log_2_at_the_reference_with_the_advantage_weighted_gradient() -> None:
    case = Case(moved=0)
    torch.testing.assert_close(case.term("dgpo"), torch.full((GROUPS,), math.log(2), dtype=torch.float64))
    torch.testing.assert_close(case.gradient("dgpo", beta=8), 4 * advantage_weighted_gradient(case))


def test_dgpo_does_not_see_what_all_samples_of_a_group_gain() -> None:
    errors = Case().errors()
    shifted = errors._replace(policy=errors.policy + torch.rand(GROUPS, dtype=torch.float64))
    options = make_objective("dgpo", {}).options
    torch.testing.assert_close(load_term("dgpo")(shifted, **options), load_term("dgpo")(errors, **options))


@pytest.mark.parametrize("beta", [2, 300])
def test_awm_starts_with_the_advantage_weighted_gradient_at_any_scale(beta: float) -> None:
    case = Case(moved=0)
    torch.testing.assert_close(case.gradient("awm", beta=beta), advantage_weighted_gradient(case))


def test_awm_of_the_public_codes_scale_is_policy_optimisation_with_minus_the_error_as_likelihood() -> None:
    case = Case(moved=0.1)
    errors, advantages = case.errors(), group_advantages(case.rewards)
    ratio = (errors.reference - errors.policy).exp()
    expected = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.9, 1.1)).mean(dim=0)
    torch.testing.assert_close(case.term("awm", beta=2, ratio_clip=0.1), expected)


def test_awm_follows_a_sample_no_further_than_the_clip() -> None:
    case = Case()
    errors, advantages = case.errors(), group_advantages(case.rewards)
    moved = case.gradient("awm", beta=300, ratio_clip=0.2).abs().sum(dim=-1) > 0
    gone_too_far = (errors.reference - errors.policy) * 150
    clipped = torch.where(advantages > 0, gone_too_far > math.log(1.2), gone_too_far < math.log(0.8))
    assert torch.equal(moved, ~clipped) and clipped.any() and moved.any()


def test_mixed_errors_are_those_of_the_mixed_velocities() -> None:
    case = Case()
    for share in (0.1, 1.0, -0.1, -1.0):
        mixed = (1 - share) * case.reference + share * case.policy
        expected = (mixed - case.target).square().mean(dim=-1)
        torch.testing.assert_close(mixed_error(case.errors(), share), expected)


@pytest.mark.parametrize("nft_beta", [0.1, 1.0])
def test_nft_at_the_reference_has_the_advantage_weighted_gradient_over_the_size_of_the_error(nft_beta: float) -> None:
    case = Case(moved=0)
    errors = case.errors()
    weights = group_advantages(case.rewards) * errors.sigma / errors.reference.sqrt()
    [expected] = torch.autograd.grad((weights * errors.policy).mean(), case.policy)
    torch.testing.assert_close(case.gradient("diffusion_nft", nft_beta=nft_beta), expected)


def test_nft_trains_two_implicit_policies_by_the_errors_of_the_clean_latents() -> None:
    case, share = Case(), 0.4
    sigma, positive = case.sigma[:, None], 0.5 + group_advantages(case.rewards) / 10
    losses: list[Tensor] = []
    for velocity in (
        (1 - share) * case.reference + share * case.policy,
        (1 + share) * case.reference - share * case.policy,
    ):
        error = sigma * (velocity - case.target)
        losses.append((error.square() / error.square().mean(dim=-1, keepdim=True).sqrt()).mean(dim=-1))
    expected = 5 / share * (positive * losses[0] + (1 - positive) * losses[1]).mean(dim=0)
    torch.testing.assert_close(case.term("diffusion_nft", nft_beta=share, advantage_clip=5), expected)


@pytest.mark.parametrize("nft_beta", [0.25, 1.0])
def test_a_sample_draws_both_implicit_policies_to_where_its_advantage_says(nft_beta: float) -> None:
    case, positive = Case(), 0.5 + group_advantages(Case().rewards)[..., None] / 10
    optimum = case.reference + (2 * positive - 1) / nft_beta * (case.target - case.reference)
    case.policy = optimum.requires_grad_()
    errors = case.errors()
    both = positive[..., 0] * mixed_error(errors, nft_beta) + (1 - positive[..., 0]) * mixed_error(errors, -nft_beta)
    [gradient] = torch.autograd.grad(both.sum(), case.policy)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


# Options


def test_an_objective_has_its_own_options_and_their_defaults() -> None:
    assert make_objective("crpo", {}) == make_objective("crpo", {"beta": 30.0, "top_k": None, "winner_weight": 0.1})
    assert make_objective("dpo_fm", {"anchor_weight": 0.5}).winner_weight == 0
    assert dict(make_objective("expert_iteration", {"temperature": 0.5}).options) == {"top_k": 1, "temperature": 0.5}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_option_that_the_objective_does_not_have_is_refused(name: str) -> None:
    for option in set(OWN_OPTIONS) - set(OBJECTIVES[name].options):
        flag = f"--{option.replace('_', '-')}"
        with pytest.raises(ConfigError, match=rf"^{flag} 2 has no meaning for --objective {name}, which has --"):
            make_objective(name, {option: 2})


def test_more_of_the_best_than_there_are_samples_are_refused() -> None:
    make_objective("expert_iteration", {"top_k": 4}).check_group_size(4)
    with pytest.raises(ConfigError, match="--top-k 5 is more than the 4 samples of a group"):
        make_objective("expert_iteration", {"top_k": 5}).check_group_size(4)
