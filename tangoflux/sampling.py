"""Sampling latents from the policy: Euler steps with classifier-free guidance, many prompts at once.

Every row of a batch has its own prompt, duration and noise, attends to exactly the tokens and frames that it would
have alone, and so gives the same latents as alone, to rounding. Rows of similar length make a batch: on two CPU cores
that was 1.5 times as fast as all lengths together, a third of which was padding.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tangoflux.conditioning import TextStates
from tangoflux.flow import euler_sigmas
from tangoflux.policy import Policy

MAX_STRETCH = 1.3
"""Longest row of a batch, as a multiple of its shortest."""


@dataclass(frozen=True)
class SamplingParams:
    """How latents are sampled.

    Attributes:
        num_steps: Euler steps, >= 1.
        guidance_scale: classifier-free guidance; at <= 1 the conditional velocity is used as it is.
        negative_prompt: what the unconditional branch reads.
    """

    num_steps: int = 50
    guidance_scale: float = 4.5
    negative_prompt: str = ""


@dataclass(frozen=True)
class SampleRequest:
    """One prompt and the seeds of its samples (one sample a seed)."""

    prompt: str
    duration_s: float
    num_frames: int
    seeds: tuple[int, ...]


@torch.no_grad()
def sample_latents(
    policy: Policy,
    requests: Sequence[SampleRequest],
    params: SamplingParams,
    on_step: Callable[[float], None] = lambda share: None,
) -> list[Tensor]:
    """Samples all requests.

    Args:
        on_step: called after every Euler step with the finished share of all, at last 1.

    Returns:
        for each request (samples, num_frames, channels), float32 on the CPU.
    """
    batches = batches_by_length([request.num_frames for request in requests])
    steps, finished = len(batches) * params.num_steps, itertools.count(1)
    groups: dict[int, Tensor] = {}
    for batch in batches:
        parts = _sample_batch(
            policy, [requests[index] for index in batch], params, lambda: on_step(next(finished) / steps)
        )
        groups |= zip(batch, parts, strict=True)
    return [groups[index] for index in range(len(requests))]


def batches_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of ``lengths``, shortest first; none is more than ``MAX_STRETCH`` times as long as its batch's first."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batches and lengths[index] <= MAX_STRETCH * lengths[batches[-1][0]]:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _sample_batch(
    policy: Policy, requests: Sequence[SampleRequest], params: SamplingParams, on_step: Callable[[], None]
) -> list[Tensor]:
    """As ``sample_latents``, all in one batch, padded to its longest."""
    device = policy.device
    repeats = torch.tensor([len(request.seeds) for request in requests])
    rows = torch.repeat_interleave(torch.arange(len(requests)), repeats)
    text, negative = _encode_conditions(policy, requests, params)
    text = text.select(rows)
    negative = negative.select(rows) if negative is not None else None
    duration_s = torch.tensor([request.duration_s for request in requests])[rows].to(device)
    frames = torch.tensor([request.num_frames for request in requests])[rows]
    frame_mask = (torch.arange(int(frames.max())) < frames[:, None]).to(device)
    latents = initial_noise(requests, policy.config.in_channels).to(device)
    sigmas = euler_sigmas(params.num_steps).tolist()
    for sigma, next_sigma in itertools.pairwise(sigmas):
        velocity = guided_velocity(
            policy, latents, sigma, text, negative, duration_s, frame_mask, params.guidance_scale
        )
        latents = latents + (next_sigma - sigma) * velocity.float()
        on_step()
    return [
        group[:, : request.num_frames]
        for group, request in zip(latents.cpu().split(repeats.tolist()), requests, strict=True)
    ]


def initial_noise(requests: Sequence[SampleRequest], channels: int) -> Tensor:
    """Each row's noise from its own seed, zero in the frames that only batching adds: (rows, frames, channels)."""
    width = max(request.num_frames for request in requests)
    rows: list[Tensor] = []
    for request in requests:
        for seed in request.seeds:
            noise = torch.randn(request.num_frames, channels, generator=torch.Generator("cpu").manual_seed(seed))
            rows.append(torch.nn.functional.pad(noise, (0, 0, 0, width - request.num_frames)))
    return torch.stack(rows)


def guided_velocity(
    policy: Policy,
    latents: Tensor,
    sigma: float,
    text: TextStates,
    negative: TextStates | None,
    duration_s: Tensor,
    frame_mask: Tensor,
    guidance_scale: float,
) -> Tensor:
    """``v_negative + guidance_scale * (v_text - v_negative)``, or ``v_text`` alone where ``negative`` is None."""
    batch_sigma = torch.full((len(latents),), sigma, device=latents.device)
    if negative is None:
        return policy(latents, batch_sigma, text, duration_s, frame_mask)
    both = policy(
        latents.repeat(2, 1, 1),
        batch_sigma.repeat(2),
        TextStates.concat([negative, text]),
        duration_s.repeat(2),
        frame_mask.repeat(2, 1),
    )
    unconditional, conditional = both.float().chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


def _encode_conditions(
    policy: Policy, requests: Sequence[SampleRequest], params: SamplingParams
) -> tuple[TextStates, TextStates | None]:
    text = policy.encode_text([request.prompt for request in requests])
    if params.guidance_scale <= 1:
        return text, None
    return text, policy.encode_unconditional([params.negative_prompt] * len(requests), text)
