"""Groups in memory: the samples of a prompt from the best to the worst, and the batches that a step sees of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.learner.batches import NoiseKey, group_noise, group_sigma
from tangoflux.data.records import latents_array

SAMPLING_COLUMNS = ("num_steps", "guidance_scale", "negative_prompt")
"""How a group's samples were drawn; null for audio that no policy made."""

PROMPT_COLUMNS = ("prompt_id", "prompt", "duration_s", "num_frames", *SAMPLING_COLUMNS)
"""The columns of pairs and of rollouts that belong to the whole group."""

PAIR_LATENTS = ("chosen_latents", "rejected_latents")
"""The latents of pairs, the best first."""

PAIR_REWARD_COLUMNS = ("chosen_reward", "rejected_reward")
"""The rewards of pairs, the best first; null where people chose."""

PAIR_REWARDS = (1.0, -1.0)
"""Rewards of chosen and rejected: two rewards, standardised within their group, are always these."""


@dataclass(frozen=True)
class GroupBatch:
    """B groups, padded to the frames F of the longest, with K of the N samples of each, the best first.

    Attributes:
        prompts: B captions.
        guidance_scale: B scales of the guidance that the samples were drawn with; 1 or less: none.
        negative_prompts: B texts that it steered away from.
        duration_s: (B,) seconds.
        latents: (K, B, F, C).
        rewards: (N, B) of all samples, from the highest to the lowest.
        noise: (B, F, C) and sigma: (B,), shared by the samples of a group.
        frame_mask: (B, F), true for a group's frames, false for padding.
        has_worst: whether the last of the K samples is the worst of the N.
    """

    prompts: list[str]
    guidance_scale: list[float]
    negative_prompts: list[str]
    duration_s: Tensor
    latents: Tensor
    rewards: Tensor
    noise: Tensor
    sigma: Tensor
    frame_mask: Tensor
    has_worst: bool = True

    def to(self, device: torch.device) -> GroupBatch:
        """A copy on another device."""
        names = ("duration_s", "latents", "rewards", "noise", "sigma", "frame_mask")
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in names})


class GroupData:
    """The groups of an alignment in memory: of each those samples that are trained on, and the best and the worst."""

    def __init__(
        self,
        columns: Mapping[str, Sequence[Any]],
        rewards: NDArray[np.float64],
        latents: Mapping[int, Sequence[NDArray[Any]]],
        ranks: Sequence[int],
        margins: NDArray[np.float64] | None = None,
    ) -> None:
        """Keeps G groups.

        Args:
            columns: G values of each of ``PROMPT_COLUMNS``.
            rewards: (G, N), from the highest to the lowest.
            latents: for each rank that is kept those of G samples, (frames, channels) each; 0 is the best.
            ranks: the samples that are trained on.
            margins: (G,) of the best reward over the worst, NaN where there are no rewards; default: of ``rewards``.
        """
        self.columns, self.group_ids = columns, _unique(columns["prompt_id"])
        self.prompts: Sequence[str] = columns["prompt"]
        self.duration_s: Sequence[float] = columns["duration_s"]
        self.num_frames: Sequence[int] = columns["num_frames"]
        self.rewards, self.latents, self.ranks = rewards, latents, tuple(ranks)
        self.margins = rewards[:, 0] - rewards[:, -1] if margins is None else margins

    def __len__(self) -> int:
        return len(self.group_ids)

    @property
    def pair(self) -> tuple[int, int]:
        """The best and the worst."""
        return 0, self.rewards.shape[1] - 1

    def groups_per_pass(self, pairs_per_pass: int) -> int:
        """Groups in a forward pass that needs the memory of so many pairs; a group is never divided, so at least 1."""
        return max(1, 2 * pairs_per_pass // len(self.ranks))

    @property
    def trains_on_worst(self) -> bool:
        """Whether the worst sample of a group is trained on."""
        return self.ranks[-1] == self.pair[1]

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.latents[0][0].shape[1]

    def batch(
        self, rows: Sequence[int], key: NoiseKey, ranks: Sequence[int] | None = None, min_sigma: float | None = None
    ) -> GroupBatch:
        """The groups at ``rows`` with the noise and sigma of ``key``.

        Args:
            ranks: which samples, default those that are trained on.
            min_sigma: see ``group_sigma``.
        """
        ranks = self.ranks if ranks is None else ranks
        frames = torch.tensor([self.num_frames[row] for row in rows])
        width = int(frames.max())
        noise = [group_noise(key, self.group_ids[row], self.num_frames[row], self.channels) for row in rows]
        steps = self.columns["num_steps"]
        latents = [[self.latents[rank][row][:width] for row in rows] for rank in ranks]
        return GroupBatch(
            [self.prompts[row] for row in rows],
            [self.columns["guidance_scale"][row] or 1.0 for row in rows],
            [self.columns["negative_prompt"][row] or "" for row in rows],
            torch.tensor([self.duration_s[row] for row in rows], dtype=torch.float32),
            torch.from_numpy(np.stack([np.stack(samples) for samples in latents]).astype(np.float32, copy=False)),
            torch.from_numpy(self.rewards[list(rows)].T.copy()),
            torch.stack([torch.nn.functional.pad(one, (0, 0, 0, width - len(one))) for one in noise]),
            torch.cat([group_sigma(key, self.group_ids[row], steps[row], min_sigma) for row in rows]),
            torch.arange(width) < frames[:, None],
            ranks[-1] == self.pair[1],
        )


def pair_groups(tables: Sequence[pa.Table], ranks: Sequence[int] = (0, 1)) -> GroupData:
    """The pairs of a preference dataset, each a group of two; their latents stay in Arrow's buffers."""
    columns = {name: [value for table in tables for value in table[name].to_pylist()] for name in PROMPT_COLUMNS}
    # A row of an array is a view: nothing is copied before a batch needs it.
    latents = [[row for table in tables for row in latents_array(table[name])] for name in PAIR_LATENTS]
    rewards = np.tile(PAIR_REWARDS, (len(columns["prompt_id"]), 1))
    chosen, rejected = (
        np.concatenate([table[name].to_numpy() for table in tables]).astype(np.float64) for name in PAIR_REWARD_COLUMNS
    )
    return GroupData(columns, rewards, dict(enumerate(latents)), ranks, chosen - rejected)


def concat_groups(parts: Sequence[GroupData]) -> GroupData:
    """The groups of several parts, of equally many samples, in their order."""
    columns = {name: [value for part in parts for value in part.columns[name]] for name in PROMPT_COLUMNS}
    latents = {rank: [row for part in parts for row in part.latents[rank]] for rank in parts[0].latents}
    return GroupData(columns, np.concatenate([part.rewards for part in parts]), latents, parts[0].ranks)


def _unique(prompt_ids: Sequence[str]) -> list[str]:
    """Group ids: the prompt's, numbered from its second group on (people may rate several pairs of a prompt)."""
    seen: Counter[str] = Counter()
    group_ids: list[str] = []
    for prompt_id in prompt_ids:
        group_ids.append(f"{prompt_id}#{seen[prompt_id]}" if seen[prompt_id] else prompt_id)
        seen[prompt_id] += 1
    return group_ids
