"""The losses of TangoFlux as pure functions of squared velocity errors (arXiv 2412.21037, section 2).

Winner and loser are the paper's words for the chosen and the rejected sample of a preference pair. All four errors
of a pair have the same noise and sigma. Inputs and outputs are (B,) vectors, so that the caller decides how to average
pairs.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def squared_error(velocity: Tensor, target: Tensor, frame_mask: Tensor) -> Tensor:
    """Mean squared error of each row over its valid frames and all channels, in float32.

    Args:
        velocity, target: (B, frames, channels).
        frame_mask: (B, frames), true for valid frames.

    Returns:
        (B,) errors, >= 0.
    """
    per_frame = (velocity.float() - target.float()).square().mean(dim=-1)
    return (per_frame * frame_mask).sum(dim=1) / frame_mask.sum(dim=1)


def flow_matching_loss(velocity: Tensor, target: Tensor, frame_mask: Tensor) -> Tensor:
    """L_FM (section 2.3): the squared error of the velocity against ``flow.velocity_target``, (B,)."""
    return squared_error(velocity, target, frame_mask)


def dpo_fm_loss(winner: Tensor, loser: Tensor, ref_winner: Tensor, ref_loser: Tensor, beta: float) -> Tensor:
    """L_DPO-FM (section 2.4): ``-log sigmoid(-beta/2 * ((Lw - Ll) - (Lw_ref - Ll_ref)))``, (B,), > 0.

    Args:
        winner, loser: (B,) flow-matching errors of the policy.
        ref_winner, ref_loser: (B,) errors of the frozen reference policy.
        beta: strength of the pull to the reference (the paper: 2000).
    """
    return -F.logsigmoid(implicit_margin(winner, loser, ref_winner, ref_loser, beta))


def implicit_margin(winner: Tensor, loser: Tensor, ref_winner: Tensor, ref_loser: Tensor, beta: float) -> Tensor:
    """The logit inside L_DPO-FM, (B,): positive where the policy ranks a pair as the reward did."""
    return -beta / 2 * ((winner - loser) - (ref_winner - ref_loser))


def crpo_loss(winner: Tensor, loser: Tensor, ref_winner: Tensor, ref_loser: Tensor, beta: float) -> Tensor:
    """L_CRPO (section 2.5.3): L_DPO-FM plus the winner's flow-matching loss, (B,). See ``dpo_fm_loss``."""
    return dpo_fm_loss(winner, loser, ref_winner, ref_loser, beta) + winner


def implicit_reward(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """``-beta/2 * (L - L_ref)``, of any shape: the reward of a sample for which the policy would be optimal.

    The difference of two samples' implicit rewards is ``implicit_margin``.
    """
    return -beta / 2 * (policy - reference)


def group_advantages(rewards: Tensor, clip: float = math.inf) -> Tensor:
    """Rewards (N, B) standardised within each of B groups, as GRPO has them (arXiv 2402.03300, section 4.1).

    Args:
        rewards: at least two different ones in each group.
        clip: largest size of an advantage.

    Returns:
        (N, B) float64; unclipped they have mean 0 and standard deviation 1, and two are 1 and -1.
    """
    rewards = rewards.double()
    deviation = rewards.std(dim=0, correction=0)
    return ((rewards - rewards.mean(dim=0)) / deviation).clamp(-clip, clip)
