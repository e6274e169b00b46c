"""Pretraining, the training task on prepared clips: flow matching (arXiv 2412.21037, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from actors.learner.batches import NoiseKey, grouped_by_length, split_heldout
from actors.learner.clips import ClipBatch, ClipData
from actors.learner.settings import PretrainingSettings
from tangoflux.errors import DataError
from tangoflux.flow import Velocity, interpolate, velocity_target
from tangoflux.losses import flow_matching_loss
from tangoflux.model.conditioning import TRAINING_MAX_TOKENS
from tangoflux.model.policy import Policy

SIGMAS = tuple((index + 0.5) / 8 for index in range(8))
"""The sigmas at which held-out clips are measured."""


class FlowMatching:
    """The clips of a preparation; the policy encodes their captions."""

    def __init__(
        self, settings: PretrainingSettings, seed: int, iteration: int, data: ClipData, policy: Policy
    ) -> None:
        """Splits the clips.

        Args:
            policy: the one that is trained, on its device.

        Raises:
            DataError: the latents have another number of channels than the policy's.
        """
        channels, expected = data.channels, policy.config.in_channels
        if channels != expected:
            raise DataError(f"{settings.clips_dir} has latents of {channels} channels, the policy {expected}")
        self.settings, self.data, self.policy = settings, data, policy
        self.micro_batch_size = settings.micro_batch_size
        self.rows, self.heldout_rows = split_heldout(len(data), settings.heldout_clips, seed, iteration)

    def order(self, key: NoiseKey) -> list[int]:
        """See ``ClipData.order`` and, with ``group_by_length``, ``grouped_by_length``."""
        order = self.data.order(self.rows, key)
        if self.settings.group_by_length:
            return grouped_by_length(order, self.num_frames, self.settings.batch_size, key)
        return order

    def num_frames(self, row: int) -> int:
        """Frames of a clip's latents."""
        return self.data.num_frames[row]

    def losses(self, policy: Velocity, rows: Sequence[int], key: NoiseKey) -> tuple[Tensor, Tensor]:
        """L_FM (B,) of the clips at ``rows``, and its sum with their number."""
        dropout, sample_posterior = self.settings.caption_dropout, self.settings.sample_posterior
        draws = [self.data.draw(row, key, dropout, sample_posterior) for row in rows]
        loss = self._loss(policy, self.data.batch(rows, draws))
        return loss, torch.tensor([float(loss.detach().double().sum()), len(rows)], dtype=torch.float64)

    def means(self, sums: Tensor) -> dict[str, float]:
        """The mean loss."""
        total, count = sums.tolist()
        return {"loss": total / count}

    def initial_metrics(self, policy: Policy) -> dict[str, Any]:
        """The number of training clips only: losses are measured during the training."""
        return {"clips": len(self.rows)}

    def final_metrics(self, load_new: Callable[[], Policy]) -> dict[str, Any]:
        """Empty, as a validation follows the last step."""
        return {}

    @torch.no_grad()
    def validate(self) -> dict[str, float] | None:
        """The mean loss on held-out clips at each of ``SIGMAS``, and their ``mean``; None without held-out clips."""
        if not self.heldout_rows:
            return None
        losses = {f"{sigma:.4f}": float(torch.cat(list(self._heldout(sigma))).mean()) for sigma in SIGMAS}
        return {"mean": sum(losses.values()) / len(losses), **losses}

    def _heldout(self, sigma: float) -> Iterator[Tensor]:
        size = self.settings.micro_batch_size
        for start in range(0, len(self.heldout_rows), size):
            rows = self.heldout_rows[start : start + size]
            draws = [self.data.fixed_draw(row, sigma, f"{sigma:.4f}") for row in rows]
            yield self._loss(self.policy, self.data.batch(rows, draws))

    def _loss(self, policy: Velocity, batch: ClipBatch) -> Tensor:
        batch = batch.to(self.policy.device)
        text = self.policy.encode_text(batch.captions, TRAINING_MAX_TOKENS)
        text = self.policy.drop_captions(text, batch.dropped)
        noisy = interpolate(batch.latents, batch.noise, batch.sigma)
        velocity = policy(noisy, batch.sigma, text, batch.duration_s, batch.frame_mask)
        return flow_matching_loss(velocity, velocity_target(batch.latents, batch.noise), batch.frame_mask)
