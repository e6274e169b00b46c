"""IPO (Azar et al., arXiv 2310.12036, equation 17) on velocity errors.

IPO draws the difference of the two log-ratios to 1 / (2 tau) instead of pushing it ever further as DPO does. As in
Diffusion-DPO (Wallace et al., arXiv 2311.12908) and L_DPO-FM, a sample's log-ratio of policy and reference is replaced
by -beta/2 times the difference of their squared errors. No paper of that name exists for diffusion; the substitution is
the one of DPO.
"""

from __future__ import annotations

from torch import Tensor

from actors.learner.objectives import GroupErrors
from tangoflux.losses import implicit_margin


def term(errors: GroupErrors, *, beta: float) -> Tensor:
    """``(margin - 1/2)^2``, (B,), >= 0, with the margin of L_DPO-FM; it is IPO's loss times tau^2, where tau is 1.

    Args:
        beta: as in L_DPO-FM. The optimum is a difference of 1 / beta between the gains of winner and loser.
    """
    policy, reference = errors.policy, errors.reference
    return (implicit_margin(policy[0], policy[-1], reference[0], reference[-1], beta) - 0.5).square()
