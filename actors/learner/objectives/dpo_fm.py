"""DPO for flow matching (arXiv 2412.21037, section 2.4): what CRPO is compared with in the paper."""

from __future__ import annotations

from torch import Tensor

from actors.learner.objectives import PairErrors
from tangoflux.losses import dpo_fm_loss


def loss(errors: PairErrors, beta: float) -> Tensor:
    """L_DPO-FM (B,): the pair's log-loss under the policy's implicit reward, relative to the reference."""
    return dpo_fm_loss(*errors, beta)
