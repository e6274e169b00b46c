"""DGPO, Direct Group Preference Optimization (Luo et al., ICLR 2026; scripts/train_sd3_dgpo.py of Luo-Yihong/DGPO).

A group is divided at its mean reward, and the better part is preferred to the worse one as in DPO:
-log sigmoid(R(better) - R(worse)). R is the sum of the samples' implicit rewards, weighted by |advantage|: as
advantages sum to 0, what cannot be computed cancels. Noise and sigma are shared within the group, as there.

That code trains with ``sigmoid(...) * advantage * L``, the gradient of this term divided by beta. It clips the change
from an average policy and adds a distance from the reference; here one iteration trains on one set of rows, the
reference is the policy that made them, and the distance is ``anchor_weight``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from actors.learner.objectives import GroupErrors
from tangoflux.losses import group_advantages


def term(errors: GroupErrors, *, beta: float, advantage_clip: float) -> Tensor:
    """``-log sigmoid(-beta/N * sum of advantage * (L - L_ref))`` over the N samples, (B,), > 0; of a pair L_DPO-FM.

    Args:
        beta: strength of the pull to the reference; the public code has 100 to 2000.
        advantage_clip: largest size of a standardised advantage (the public code: 5).
    """
    advantages = group_advantages(errors.rewards, advantage_clip).to(errors.policy.dtype)
    return F.softplus(beta * (advantages * (errors.policy - errors.reference)).mean(dim=0))
