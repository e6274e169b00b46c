"""Sampling latents from the policy: Euler steps with classifier-free guidance, for many prompts in a batch.

Every row has its own prompt, duration and noise, and attends to exactly the tokens and frames that it would have alone,
so its latents do not depend on the batch, up to rounding. Rows of similar length share a batch: on two CPU cores that
was 1.5 times as fast as one batch of all lengths, a third of which was padding.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tangoflux.flow import Velocity, euler_sigmas
from tangoflux.model.conditioning import TextStates
from tangoflux.model.policy import Policy
from tangoflux.sampling_params import SamplingParams

SAMPLING_FLOATS = 12
"""Peak number of floats per row, token and unit of width in a step (guidance doubles the rows); measured. The peak is
in the single block, which runs attention and MLP in parallel."""

MAX_STRETCH = 1.3
"""Longest row of a batch, as a multiple of its shortest."""


@dataclass(frozen=True)
class SampleRequest:
    """One prompt and the seeds of its samples."""

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
        on_step: called after every Euler step with the finished share of all steps; finally 1.

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
    """Batches of indices, by length; no length is above ``MAX_STRETCH`` times the first of its batch."""
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
    """As ``sample_latents``, in one batch, padded to the longest."""
    device = policy.device
    repeats = torch.tensor([len(request.seeds) for request in requests])
    rows = torch.repeat_interleave(torch.arange(len(requests)), repeats)
    conditions = _encode_conditions(policy, requests, params, rows)
    latents = initial_noise(requests, policy.config.in_channels).to(device)
    sigmas = euler_sigmas(params.num_steps).tolist()
    for sigma, next_sigma in itertools.pairwise(sigmas):
        velocity = guided_velocity(policy, latents, torch.full((len(rows),), sigma, device=device), conditions)
        latents = latents + (next_sigma - sigma) * velocity
        on_step()
    return [
        group[:, : request.num_frames]
        for group, request in zip(latents.cpu().split(repeats.tolist()), requests, strict=True)
    ]


def initial_noise(requests: Sequence[SampleRequest], channels: int) -> Tensor:
    """Each row's noise from its own seed, zero in padding frames: (rows, frames, channels)."""
    width = max(request.num_frames for request in requests)
    rows: list[Tensor] = []
    for request in requests:
        for seed in request.seeds:
            noise = torch.randn(request.num_frames, channels, generator=torch.Generator("cpu").manual_seed(seed))
            rows.append(torch.nn.functional.pad(noise, (0, 0, 0, width - request.num_frames)))
    return torch.stack(rows)


@dataclass(frozen=True)
class Conditions:
    """The conditioning of a batch's rows.

    Attributes:
        text: B encoded captions.
        negative: the unconditional branch's text for the G guided rows, as long as ``text``; None if G is 0.
        guided: (G,) indices of the guided rows.
        guidance_scale: (G,) of the guided rows.
        duration_s: (B,) seconds.
        frame_mask: (B, frames) true for valid frames.
    """

    text: TextStates
    negative: TextStates | None
    guided: Tensor
    guidance_scale: Tensor
    duration_s: Tensor
    frame_mask: Tensor

    def guide(self, velocity: Tensor, negative: Tensor) -> Tensor:
        """Adds the guidance of the guided rows: ``negative + guidance_scale * (velocity - negative)``.

        Args:
            velocity: (B, frames, channels) of the captions.
            negative: (G, frames, channels) of the guided rows' unconditional branch.
        """
        scale = self.guidance_scale[:, None, None]
        return velocity.index_put((self.guided,), negative + scale * (velocity[self.guided] - negative))


def guided_velocity(policy: Velocity, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
    """``v_negative + guidance_scale * (v_text - v_negative)`` for guided rows, ``v_text`` for the others; float32.

    Args:
        latents: (B, frames, channels) at ``sigma``.
        sigma: (B,).
    """
    text, guided = conditions.text, conditions.guided
    if conditions.negative is None:
        return policy(latents, sigma, text, conditions.duration_s, conditions.frame_mask).float()
    every = torch.cat([guided, torch.arange(len(latents), device=guided.device)])
    both = policy(
        latents[every],
        sigma[every],
        TextStates.concat([conditions.negative, text]),
        conditions.duration_s[every],
        conditions.frame_mask[every],
    )
    negative, velocity = both.float().split([len(guided), len(latents)])
    return conditions.guide(velocity, negative)


def _encode_conditions(
    policy: Policy, requests: Sequence[SampleRequest], params: SamplingParams, rows: Tensor
) -> Conditions:
    """The conditions of a batch whose row i is a sample of request ``rows[i]``."""
    device = policy.device
    text, negative = encode_prompts(policy, [request.prompt for request in requests], params)
    frames = torch.tensor([request.num_frames for request in requests])[rows]
    guided = torch.arange(len(rows) if negative else 0, device=device)
    return Conditions(
        text.select(rows),
        negative.select(rows) if negative else None,
        guided,
        torch.full((len(guided),), params.guidance_scale, device=device),
        torch.tensor([request.duration_s for request in requests])[rows].to(device),
        (torch.arange(int(frames.max())) < frames[:, None]).to(device),
    )


def encode_prompts(
    policy: Policy, prompts: Sequence[str], params: SamplingParams
) -> tuple[TextStates, TextStates | None]:
    """The prompts' states, and with guidance those of the unconditional branch."""
    text = policy.encode_text(prompts)
    if params.guidance_scale <= 1:
        return text, None
    return text, policy.encode_unconditional([params.negative_prompt] * len(prompts), text)
