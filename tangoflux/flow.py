"""Rectified flow (Liu et al., 2022): the straight path between latents and noise.

sigma = 0 is data and sigma = 1 is noise. This file is the only place where the path, its velocity and the
distribution of sigma are defined.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[..., Tensor]
"""``Policy.forward``, or what computes the same: a reference, a DeepSpeed engine around a policy."""


def interpolate(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The point at ``sigma`` on the path: ``(1 - sigma) * latents + sigma * noise``.

    Args:
        latents, noise: (B, frames, channels).
        sigma: (B,) in [0, 1].
    """
    sigma = sigma.to(latents.dtype).view(-1, 1, 1)
    return (1 - sigma) * latents + sigma * noise


def velocity_target(latents: Tensor, noise: Tensor) -> Tensor:
    """The path's velocity dx/dsigma, which the policy learns: ``noise - latents``, (B, frames, channels)."""
    return noise - latents


def logit_normal_sigma(count: int, generator: torch.Generator) -> Tensor:
    """``count`` training sigmas, sigmoid of a standard normal (Esser et al., 2024, eq. 19), float32 in (0, 1)."""
    return torch.sigmoid(torch.randn(count, generator=generator))


def euler_sigmas(num_steps: int) -> Tensor:
    """The ``num_steps + 1`` sigmas of Euler sampling: from 1 to 1/num_steps in equal steps, then 0 (float32)."""
    return torch.cat([torch.linspace(1.0, 1.0 / num_steps, num_steps), torch.zeros(1)])


def sampler_sigma(num_steps: int, lowest: float, generator: torch.Generator) -> Tensor:
    """(1,) one of the sigmas from ``lowest`` up at which Euler sampling evaluates the policy, all equally likely."""
    sigmas = euler_sigmas(num_steps)[:-1]
    sigmas = sigmas[sigmas >= lowest]
    return sigmas[torch.randint(len(sigmas), (1,), generator=generator)]
