"""DiffusionNFT (Zheng et al., arXiv 2509.16117, section 3; scripts/train_nft_sd3.py of NVlabs/DiffusionNFT).

With v the policy's velocity and v_old that of the policy that sampled, v+ = (1 - b) v_old + b v is an implicit positive
policy and v- = (1 + b) v_old - b v an implicit negative one. A sample of optimality probability p trains both by flow
matching: p |v+ - target|^2 + (1 - p) |v- - target|^2. p = 1/2 + A / (2 clip), with the group's advantage A clipped.

As in the public code the errors are those of the clean latents, sigma^2 times the velocity's, divided by their own mean
size without gradients, and the sum is multiplied by clip / b. That code's mean size is of absolute values, ours their
root mean square, so that three mean squares, L, L_ref and the distance of v from v_old, give the whole term. v_old is
the reference; there it moves slowly after the policy. Their KL (of weight 0.0001) is ``anchor_weight`` here.
"""

from __future__ import annotations

from torch import Tensor

from actors.learner.objectives import GroupErrors
from tangoflux.losses import group_advantages

MIN_SIZE = 1e-5
"""Errors are divided by no less, as in the public code."""


def term(errors: GroupErrors, *, nft_beta: float, advantage_clip: float) -> Tensor:
    """The mean over the group, (B,).

    Args:
        nft_beta: b, above 0 (the public code: 0.1 or 1): without the division by the mean size, a sample draws the
            policy to v_old + A / (clip * b) * (target - v_old).
        advantage_clip: clip (the public code: 5).
    """
    advantages = group_advantages(errors.rewards, advantage_clip).to(errors.policy.dtype)
    positive = 0.5 + advantages / (2 * advantage_clip)
    better = _normalised(mixed_error(errors, nft_beta), errors.sigma)
    worse = _normalised(mixed_error(errors, -nft_beta), errors.sigma)
    return advantage_clip / nft_beta * (positive * better + (1 - positive) * worse).mean(dim=0)


def mixed_error(errors: GroupErrors, share: float) -> Tensor:
    """(K, B) squared error of the velocity (1 - share) v_old + share v."""
    mixed = (1 - share) * errors.reference + share * errors.policy - share * (1 - share) * errors.distance
    return mixed.clamp(min=0)  # it is a square, but for rounding


def _normalised(error: Tensor, sigma: Tensor) -> Tensor:
    """The squared error of the clean latents, divided by its root without gradients."""
    of_latents = sigma.square() * error
    return of_latents / of_latents.detach().sqrt().clamp(min=MIN_SIZE)
