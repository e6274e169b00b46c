"""Which pairs an optimiser step sees, in which order, and with which noise.

All of this follows from (seed, iteration, epoch, pair id) and the global batch size. The number of ranks only decides
which rank computes which pairs of a global batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.learner.schedule import num_heldout
from actors.learner.settings import LearnerSettings
from tangoflux.data.records import latents_array
from tangoflux.flow import logit_normal_sigma
from tangoflux.seeding import seeded_generator

COLUMNS = ("prompt_id", "prompt", "duration_s", "num_frames", "chosen_latents", "rejected_latents")
"""The columns of a preference dataset that the learner reads."""

POOL_BATCHES = 16
"""Batches whose rows ``grouped_by_length`` sorts together."""

NoiseKey = tuple[int, int, int | str]
"""Run seed, iteration and epoch (or the name of a measurement)."""


@dataclass(frozen=True)
class PairBatch:
    """B preference pairs, padded to the frames F of the longest.

    Attributes:
        prompts: B captions.
        duration_s: (B,) seconds.
        chosen, rejected: (B, F, C) latents.
        noise: (B, F, C) and sigma: (B,), shared by chosen and rejected.
        frame_mask: (B, F), true for a pair's frames, false for padding.
    """

    prompts: list[str]
    duration_s: Tensor
    chosen: Tensor
    rejected: Tensor
    noise: Tensor
    sigma: Tensor
    frame_mask: Tensor

    def to(self, device: torch.device) -> PairBatch:
        """A copy on another device."""
        tensors = (self.duration_s, self.chosen, self.rejected, self.noise, self.sigma, self.frame_mask)
        return PairBatch(self.prompts, *(tensor.to(device) for tensor in tensors))


class PairData:
    """A preference dataset in memory; its latents stay in Arrow's buffers (under Ray, in shared memory)."""

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        prompt_ids = [value for table in tables for value in table["prompt_id"].to_pylist()]
        self.pair_ids = _unique(prompt_ids)
        self.prompts = [value for table in tables for value in table["prompt"].to_pylist()]
        self.duration_s = [value for table in tables for value in table["duration_s"].to_pylist()]
        self.num_frames = [value for table in tables for value in table["num_frames"].to_pylist()]
        # A row of an array is a view: nothing is copied before a batch needs it.
        self.chosen = [row for table in tables for row in latents_array(table["chosen_latents"])]
        self.rejected = [row for table in tables for row in latents_array(table["rejected_latents"])]

    def __len__(self) -> int:
        return len(self.pair_ids)

    def batch(self, rows: Sequence[int], key: NoiseKey) -> PairBatch:
        """The pairs at ``rows`` with the noise and sigma of ``key``."""
        frames = torch.tensor([self.num_frames[row] for row in rows])
        width = int(frames.max())
        draws = [pair_noise(key, self.pair_ids[row], self.num_frames[row], self.chosen[row].shape[1]) for row in rows]
        return PairBatch(
            [self.prompts[row] for row in rows],
            torch.tensor([self.duration_s[row] for row in rows], dtype=torch.float32),
            self._latents(self.chosen, rows, width),
            self._latents(self.rejected, rows, width),
            torch.stack([torch.nn.functional.pad(noise, (0, 0, 0, width - len(noise))) for _, noise in draws]),
            torch.cat([sigma for sigma, _ in draws]),
            torch.arange(width) < frames[:, None],
        )

    def _latents(self, column: list[NDArray[Any]], rows: Sequence[int], width: int) -> Tensor:
        return torch.from_numpy(np.stack([column[row][:width] for row in rows]).astype(np.float32, copy=False))


def pair_noise(key: NoiseKey, pair_id: str, frames: int, channels: int) -> tuple[Tensor, Tensor]:
    """Sigma (1,) and noise (frames, channels) of a pair in an epoch."""
    source = seeded_generator("learner noise", *key, pair_id)
    return logit_normal_sigma(1, source), torch.randn(frames, channels, generator=source)


def split_heldout(rows: int, most: int, seed: int, iteration: int) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to hold out (see ``num_heldout``), both in ascending order."""
    heldout = num_heldout(rows, most)
    permutation = torch.randperm(rows, generator=seeded_generator("learner heldout", seed, iteration)).tolist()
    return sorted(permutation[heldout:]), sorted(permutation[:heldout])


def epoch_order(rows: Sequence[int], key: NoiseKey) -> list[int]:
    """The order in which an epoch sees ``rows``."""
    permutation = torch.randperm(len(rows), generator=seeded_generator("learner order", *key))
    return [rows[index] for index in permutation.tolist()]


def grouped_by_length(order: Sequence[int], length: Callable[[int], int], batch_size: int, key: NoiseKey) -> list[int]:
    """``order`` with rows of similar length in a batch, so that little of a batch is padding.

    Within each ``POOL_BATCHES`` batches of the order, rows are sorted by length and the batches shuffled; an
    incomplete batch stays the last one.
    """
    size = POOL_BATCHES * batch_size
    grouped: list[int] = []
    for start in range(0, len(order), size):
        pool = sorted(order[start : start + size], key=length)
        short = len(pool) % batch_size
        batches = [pool[index : index + batch_size] for index in range(short, len(pool), batch_size)]
        shuffled = epoch_order(range(len(batches)), (*key[:2], f"lengths {start} {key[2]}"))
        grouped += [row for index in shuffled for row in batches[index]] + pool[:short]
    return grouped


def micro_steps(settings: LearnerSettings) -> int:
    """Forward passes of a rank in an optimiser step: the same for every rank and step, as DeepSpeed requires."""
    rank_pairs = -(-settings.batch_size // settings.workers)
    return -(-rank_pairs // settings.micro_batch_size)


def rank_share(batch: Sequence[int], settings: LearnerSettings, rank: int) -> list[list[int]]:
    """A rank's rows of a global batch, one list per micro-step.

    A list is empty where an uneven batch has no row for this rank and micro-step.
    """
    rows, size = batch[rank :: settings.workers], settings.micro_batch_size
    return [list(rows[index * size : (index + 1) * size]) for index in range(micro_steps(settings))]


def _unique(prompt_ids: list[str]) -> list[str]:
    """Pair ids: the prompt's, numbered from its second pair on (people may rate several pairs of a prompt)."""
    seen: Counter[str] = Counter()
    pair_ids: list[str] = []
    for prompt_id in prompt_ids:
        pair_ids.append(f"{prompt_id}#{seen[prompt_id]}" if seen[prompt_id] else prompt_id)
        seen[prompt_id] += 1
    return pair_ids
