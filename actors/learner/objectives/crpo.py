"""CRPO (arXiv 2412.21037, section 2.5.3).

DPO-FM alone can be lowered while the errors of both samples grow. The flow-matching loss of the chosen sample keeps
the policy close to what the reward preferred.
"""

from __future__ import annotations

from torch import Tensor

from actors.learner.objectives import PairErrors
from tangoflux.losses import crpo_loss


def loss(errors: PairErrors, beta: float) -> Tensor:
    """L_CRPO = L_DPO-FM + L_FM of the chosen sample, (B,)."""
    return crpo_loss(*errors, beta)
