"""Expert iteration: flow matching on the best of each group, by hard choice or weighted by reward.

The hard choice is reward-ranked fine-tuning (RAFT, Dong et al., arXiv 2304.06767) with the paper's L_FM as the loss; of
the best sample alone it is the winner's term of L_CRPO. The weights are those of reward-weighted regression
(Peters and Schaal, 2007), exp(reward / temperature), as online reward-weighted flow matching has them (ORW-CFM-W2, Fan
et al., arXiv 2502.06061, whose distance from the reference is ``anchor_weight`` here). Here rewards are standardised
within the group, so that one temperature fits every reward.
"""

from __future__ import annotations

from torch import Tensor

from actors.learner.objectives import GroupErrors
from tangoflux.losses import group_advantages


def term(errors: GroupErrors, *, top_k: int, temperature: float | None) -> Tensor:
    """Weighted mean of L_FM over the ``top_k`` best samples, (B,); the weights sum to 1.

    Args:
        top_k: samples of a group that are trained on; 0: all. The trained samples are already chosen.
        temperature: of the softmax of the standardised rewards; None: all weights are equal.
    """
    if temperature is None:
        return errors.policy.mean(dim=0)
    weights = (group_advantages(errors.rewards)[: len(errors.policy)] / temperature).softmax(dim=0)
    return (weights.to(errors.policy.dtype) * errors.policy).sum(dim=0)
