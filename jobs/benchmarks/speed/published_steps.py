"""The published code's rollout and CRPO training step, reimplemented.

One prompt at a time, float32 throughout, always all frames, no masks, a copy as the reference, and the text encoder in
every call. It replaces the published code if the user has no clone of it, and has the same interface.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn
from transformers import BatchEncoding, PreTrainedTokenizerBase

from tangoflux.flow import euler_sigmas
from tangoflux.model.policy import Policy


class PublishedSteps(nn.Module):
    """A transformer with a policy's weights, and the policy's other modules; training adds the reference."""

    ref_transformer: nn.Module

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.config = policy.config
        self.tokenizer: PreTrainedTokenizerBase = policy.tokenizer
        self.text_encoder, self.fc, self.duration_emebdder = policy.text_encoder, policy.fc, policy.duration_emebdder
        # The policy's transformer differs from diffusers' in how it embeds sigma.
        self.transformer: Any = FluxTransformer2DModel.from_config(policy.transformer.config)
        self.transformer.load_state_dict(policy.transformer.state_dict())
        self.beta_dpo = 2000

    @torch.no_grad()
    def encode_text(self, prompt: Sequence[str], width: int | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states (B, L, d) and the mask of real tokens (B, L), padded to ``width`` or to the longest."""
        batch: BatchEncoding = self.tokenizer(
            list(prompt),
            max_length=width or 64,
            padding="max_length" if width else True,
            truncation=True,
            return_tensors="pt",
        ).to(self.text_encoder.device)
        return self.text_encoder(**batch).last_hidden_state, batch["attention_mask"]

    @torch.no_grad()
    def inference_flow(
        self,
        prompt: str,
        num_inference_steps: int,
        guidance_scale: float,
        duration: float,
        seed: int,
        disable_progress: Literal[True] = True,
        num_samples_per_prompt: int = 1,
    ) -> Tensor:
        """Latents (samples, frames, channels) of one prompt, with guidance; never shows progress."""
        torch.manual_seed(seed)
        text, mask = self.encode_text([prompt])
        empty, empty_mask = self.encode_text([""], width=text.shape[1])
        text, mask = torch.cat([empty, text]), torch.cat([empty_mask, mask])
        conditions = self._conditions(text, mask, torch.tensor([duration, duration], device=text.device))
        conditions = [part.repeat_interleave(num_samples_per_prompt, dim=0) for part in conditions]
        latents = torch.randn(num_samples_per_prompt, self.config.audio_seq_len, self.config.in_channels)
        latents = latents.to(text.device)
        sigmas = euler_sigmas(num_inference_steps).to(text.device)
        for sigma, next_sigma in itertools.pairwise(sigmas):
            velocity = _velocity(self.transformer, torch.cat([latents, latents]), sigma[None], *conditions)
            unconditional, conditional = velocity.chunk(2)
            velocity = unconditional + guidance_scale * (conditional - unconditional)
            latents = latents + (next_sigma - sigma) * velocity
        return latents

    def forward(
        self, latents: Tensor, prompt: Sequence[str], duration: Tensor, sft: Literal[False] = False
    ) -> tuple[Tensor]:
        """The CRPO loss of B pairs, in a tuple of one.

        Args:
            latents: (2B, frames, channels), the chosen ones first.
            prompt: B captions.
            duration: (B,) seconds.
        """
        conditions = [
            part.repeat(2, *[1] * (part.ndim - 1)) for part in self._conditions(*self.encode_text(prompt), duration)
        ]
        noise = torch.randn_like(latents)[: len(prompt)].repeat(2, 1, 1)
        sigma = torch.sigmoid(torch.randn(len(prompt))).to(latents.device).repeat(2)
        noisy = (1 - sigma[:, None, None]) * latents + sigma[:, None, None] * noise
        target = noise - latents
        winner, loser = _errors(_velocity(self.transformer, noisy, sigma, *conditions), target)
        with torch.no_grad():
            ref_winner, ref_loser = _errors(_velocity(self.ref_transformer, noisy, sigma, *conditions), target)
        margin = -self.beta_dpo / 2 * ((winner - loser) - (ref_winner - ref_loser))
        return (-F.logsigmoid(margin).mean() + winner.mean(),)

    def _conditions(self, text: Tensor, mask: Tensor, duration: Tensor) -> tuple[Tensor, Tensor]:
        """Text and duration tokens, padding included, and the pooled vector of the real tokens."""
        weights = mask[:, :, None].to(text.dtype)
        pooled = (text * weights).sum(dim=1) / weights.sum(dim=1)
        return torch.cat([text, self.duration_emebdder(duration)], dim=1), self.fc(pooled)


def _velocity(transformer: nn.Module, latents: Tensor, sigma: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
    return transformer(
        hidden_states=latents,
        timestep=sigma,
        pooled_projections=pooled,
        encoder_hidden_states=tokens,
        txt_ids=torch.zeros(tokens.shape[1], 3, device=tokens.device),
        img_ids=torch.arange(latents.shape[1], device=tokens.device).float()[:, None].expand(-1, 3),
        return_dict=False,
    )[0]


def _errors(velocity: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    winner, loser = (velocity - target).square().mean(dim=(1, 2)).chunk(2)
    return winner, loser
