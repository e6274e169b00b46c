"""A CRPO optimiser step on the same pairs, micro-batch and frames."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from actors.learner.alignment.groups import PAIR_REWARDS, GroupBatch
from actors.learner.alignment.losses import group_losses
from actors.learner.batches import group_noise, group_sigma
from actors.learner.objectives import make_objective
from jobs.benchmarks.speed.settings import OURS, PUBLISHED, Settings, published_model
from jobs.benchmarks.speed.sizes import captions
from jobs.benchmarks.speed.timing import DTYPES, Lap, Run, Side
from tangoflux.model.policy import Policy
from tangoflux.pipeline import TangoFlux

OBJECTIVE = make_objective("crpo", {"beta": 2000.0, "winner_weight": 1.0})
LEARNING_RATE = 1e-5
BETAS = (0.9, 0.95)
"""The paper's."""


def training_sides(model: TangoFlux, settings: Settings) -> tuple[list[tuple[Side, Run]], list[Any]]:
    """Ours; the published step, which encodes the pairs' audio and captions; and the same with both encoded before.

    Also returns our transformers.
    """
    size = settings.model
    pairs = Pairs(model, size.pairs, settings.device)
    ours = OurTraining(copy.deepcopy(model.policy), pairs, settings)
    published = PublishedTraining(published_model(model.policy, settings.repository), model, pairs)
    whole, alone = f"{PUBLISHED}, VAE and T5 in the step", f"{PUBLISHED}, without VAE and T5"
    sides = [
        (Side(whole, "steps", 1, "fp32"), published.step),
        (Side(alone, "steps", 1, "fp32"), published.step_without_encoders),
        (Side(OURS, "steps", 1, settings.precision, (whole, alone)), ours.step),
    ]
    return sides, [ours.policy.transformer, ours.reference.transformer]


class Pairs:
    """B random pairs: audio (B, audio_channels, samples) for the published step, latents (B, frames, channels)."""

    def __init__(self, model: TangoFlux, count: int, device: str) -> None:
        config, codec = model.policy.config, model.autoencoder
        self.prompts = captions(count)
        self.duration_s = torch.full((count,), float(config.max_duration), device=device)
        shape = (2, count, codec.audio_channels, config.audio_seq_len * codec.hop)
        self.chosen_audio, self.rejected_audio = 0.1 * torch.randn(shape).to(device)
        shape = (2, count, config.audio_seq_len, config.in_channels)
        self.chosen, self.rejected = torch.randn(shape).to(device)

    def batch(self) -> GroupBatch:
        """A batch as the learner builds it, with the noise that it draws for each pair."""
        frames, channels = self.chosen.shape[1:]
        key, ids = (0, 1, 1), [f"pair {row}" for row in range(len(self.prompts))]
        device = self.chosen.device
        return GroupBatch(
            self.prompts,
            [1.0] * len(self.prompts),
            [""] * len(self.prompts),
            self.duration_s,
            torch.stack([self.chosen, self.rejected]),
            torch.tensor(PAIR_REWARDS, device=device)[:, None].expand(2, len(self.prompts)),
            torch.stack([group_noise(key, pair, frames, channels) for pair in ids]).to(device),
            torch.cat([group_sigma(key, pair) for pair in ids]).to(device),
            torch.ones(self.chosen.shape[:2], dtype=torch.bool, device=device),
        )


class OurTraining:
    """The learner's optimiser step without Ray and DeepSpeed: its losses, clipping, AdamW on float32 weights."""

    def __init__(self, policy: Policy, pairs: Pairs, settings: Settings) -> None:
        self.policy, self.pairs = policy.to(DTYPES[settings.precision]).train(), pairs
        self.reference = copy.deepcopy(self.policy).requires_grad_(False)
        self.trained = list(self.policy.trainable_parameters())
        # For float32 weights these are the weights themselves.
        self.masters = [parameter.detach().float() for parameter in self.trained]
        self.optimizer = torch.optim.AdamW(self.masters, lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0)

    def step(self, lap: Lap) -> None:
        """Computes losses and gradients, and updates the weights."""
        losses = group_losses(self.policy, self.reference, self.pairs.batch(), OBJECTIVE)
        losses.loss.mean().backward()
        for master, parameter in zip(self.masters, self.trained, strict=True):
            assert parameter.grad is not None
            master.grad, parameter.grad = parameter.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for master, parameter in zip(self.masters, self.trained, strict=True):
                parameter.copy_(master)
        losses.sums().cpu()
        lap("step")


class PublishedTraining:
    """A step of the published training loop."""

    def __init__(self, published: Any, model: TangoFlux, pairs: Pairs) -> None:
        self.published, self.pairs = published, pairs
        self.oobleck: Any = model.autoencoder.oobleck
        published.ref_transformer = copy.deepcopy(published.transformer).requires_grad_(False)
        trained = [*published.transformer.parameters(), *published.fc.parameters()]
        self.optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0)
        self.text = published.encode_text(pairs.prompts)

    def step(self, lap: Lap) -> None:
        """Encodes the audio of both sides, and the captions in the loss."""
        with torch.no_grad():
            sides = (self.pairs.chosen_audio, self.pairs.rejected_audio)
            latents = torch.cat([self.oobleck.encode(audio).latent_dist.sample() for audio in sides])
        self._update(latents.transpose(1, 2))
        lap("step")

    def step_without_encoders(self, lap: Lap) -> None:
        """The same with latents and captions that are already encoded."""
        self.published.encode_text = lambda prompts: self.text
        self._update(torch.cat([self.pairs.chosen, self.pairs.rejected]))
        del self.published.encode_text
        lap("step")

    def _update(self, latents: Tensor) -> None:
        self.optimizer.zero_grad()
        loss = self.published(latents, self.pairs.prompts, duration=self.pairs.duration_s, sft=False)[0]
        loss.backward()
        self.optimizer.step()
        loss.item()
