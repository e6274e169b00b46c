"""AWM, Advantage Weighted Matching (Xue et al., arXiv 2509.25050).

Follows scripts/train_sd3_awm.py of scxue/advantage_weighted_matching: policy optimisation in which a sample's
log-likelihood is minus its flow-matching loss, max(-A r, -A clip(r)) with the ratio r of the likelihoods under the
policy and the one that sampled. At r = 1 its gradient is that of A * L, the flow-matching loss weighted by the
advantage. Clipping keeps samples with A < 0 from being pushed away without end.

Here the policy that sampled is the reference, its distance (their KL, of weight 0.001 to 1) is ``anchor_weight``, and
sigma is not weighted. Their ratio moves by the loss's own small changes, or is not clipped where each set of samples is
used once; ours sees its rows for several epochs, so beta scales the log-likelihood.
"""

from __future__ import annotations

import torch
from torch import Tensor

from actors.learner.objectives import GroupErrors
from tangoflux.losses import group_advantages, implicit_reward


def term(errors: GroupErrors, *, beta: float, advantage_clip: float, ratio_clip: float) -> Tensor:
    """Mean of ``2/beta * max(-A r, -A clip(r))`` over the group, (B,), with ``r = exp(-beta/2 * (L - L_ref))``.

    Args:
        beta: scale of the log-likelihood; the public code's is 2. The gradient at the start does not depend on it.
        advantage_clip: largest size of a standardised advantage A (the public code: 5).
        ratio_clip: the largest change of the ratio from 1 that is rewarded (the public code: 0.0001 to 1).
    """
    advantages = group_advantages(errors.rewards, advantage_clip).to(errors.policy.dtype)
    ratio = implicit_reward(errors.policy, errors.reference, beta).exp()
    clipped = ratio.clamp(1 - ratio_clip, 1 + ratio_clip)
    return 2 / beta * torch.maximum(-advantages * ratio, -advantages * clipped).mean(dim=0)
