"""Diffusion-KTO (Li et al., arXiv 2404.04465; train_kto_sd_v1.5.py of jacklishufan/diffusion-kto) on velocity errors.

Each sample alone is desirable or not, and the loss is 1 - U(+-(g - z)): U is the sigmoid of Kahneman and Tversky, g the
sample's implicit reward and z the reference point, the mean of g, at least 0, without gradients. Here a sample is
desirable if its reward is above its group's mean, and z is the mean over the group instead of over the batch, so that
neither micro-batches nor ranks matter. Both kinds have the weight 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from actors.learner.objectives import GroupErrors
from tangoflux.losses import group_advantages, implicit_reward


def term(errors: GroupErrors, *, beta: float) -> Tensor:
    """Mean of ``1 - sigmoid(+-(g - z))`` over the group, (B,), in (0, 1); 1/2 where the policy is the reference.

    Args:
        beta: scale of the implicit reward g = -beta/2 * (L - L_ref), as in L_DPO-FM; the public code's beta is half it.
    """
    gain = implicit_reward(errors.policy, errors.reference, beta)
    point = gain.detach().mean(dim=0).clamp(min=0)
    sign = torch.where(group_advantages(errors.rewards) > 0, 1, -1)
    return torch.sigmoid(-sign * (gain - point)).mean(dim=0)
