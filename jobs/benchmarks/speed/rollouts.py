"""Rollouts: latents by guided Euler steps, then the waveforms decoded from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from jobs.benchmarks.published_code import published_latents
from jobs.benchmarks.speed.settings import OURS, PUBLISHED, Settings, published_model
from jobs.benchmarks.speed.sizes import captions
from jobs.benchmarks.speed.timing import Lap, Run, Side
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling import SampleRequest, sample_latents
from tangoflux.sampling_params import SamplingParams

GUIDANCE = 4.5
"""The paper's."""


def rollout_sides(model: TangoFlux, settings: Settings) -> tuple[list[tuple[Side, Run]], list[Any]]:
    """The published code on one prompt at a time, its only mode, and ours on one and on several.

    All sample all frames. Ours is also measured with only the frames of the prompts' duration, which suffice for a
    policy that was trained that way (``latent_frames: duration``). Also returns our transformer.
    """
    size, frames = settings.model, model.policy.config.audio_seq_len
    duration_s = model.policy.config.max_duration / 3
    own_frames = model.autoencoder.frames_for(duration_s)
    alone = f"{PUBLISHED}, 1x{size.num_samples}"
    published = published_model(model.policy, settings.repository)
    theirs = published_run(
        published, model.autoencoder.oobleck, duration_s, own_frames, size.num_samples, settings.num_steps
    )
    sides = [(Side(alone, "samples", size.num_samples, "fp32"), theirs)]
    shapes = [(prompts, frames, "") for prompts in settings.batches]
    for prompts, length, note in [*shapes, (settings.batches[-1], own_frames, f", {own_frames} of {frames} frames")]:
        requests = [
            SampleRequest(caption, duration_s, length, tuple(range(index, index + size.num_samples)))
            for index, caption in enumerate(captions(prompts))
        ]
        name, work = f"{OURS}, {prompts}x{size.num_samples}{note}", prompts * size.num_samples
        side = Side(name, "samples", work, settings.precision, (alone,))
        sides.append((side, our_run(model, requests, settings)))
    return sides, [model.policy.transformer]


def our_run(model: TangoFlux, requests: Sequence[SampleRequest], settings: Settings) -> Run:
    """The work of a rollout worker on a chunk of prompts."""
    params = SamplingParams(settings.num_steps, GUIDANCE)

    def run(lap: Lap) -> None:
        with torch.autocast(settings.device, torch.bfloat16, enabled=settings.bf16):
            groups = sample_latents(model.policy, requests, params)
        lap("latents")
        for group, request in zip(groups, requests, strict=True):
            model.decode(list(group), [request.duration_s] * len(group))
        lap("waveforms")

    return run


def published_run(
    published: Any, oobleck: Any, duration_s: float, decoded_frames: int, num_samples: int, num_steps: int
) -> Run:
    """The work of the published scripts on a prompt; they decode the first ``decoded_frames`` frames."""

    @torch.no_grad()
    def run(lap: Lap) -> None:
        latents = published_latents(published, captions(1)[0], duration_s, num_steps, GUIDANCE, 0, num_samples)
        lap("latents")
        oobleck.decode(latents[:, :decoded_frames].transpose(1, 2)).sample.cpu()
        lap("waveforms")

    return run
