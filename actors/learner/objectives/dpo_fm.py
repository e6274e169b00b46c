"""DPO for flow matching (arXiv 2412.21037, section 2.4): what CRPO is compared with in the paper."""

from __future__ import annotations

from torch import Tensor

from actors.learner.objectives import GroupErrors
from tangoflux.losses import dpo_fm_loss


def term(errors: GroupErrors, *, beta: float) -> Tensor:
    """L_DPO-FM (B,): the pair's log-loss under the policy's implicit reward, relative to the reference.

    Args:
        beta: strength of the pull to the reference (the paper: 2000).
    """
    policy, reference = errors.policy, errors.reference
    return dpo_fm_loss(policy[0], policy[-1], reference[0], reference[-1], beta)
