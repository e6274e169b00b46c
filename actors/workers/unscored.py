"""Rollouts whose scoring is left for later."""

from __future__ import annotations

import numpy as np
import ray

from actors.workers.chunk import Chunk
from actors.workers.reward import RoleScores, ScoredBatch, scored_batch
from actors.workers.rollout import RolloutBatch, RolloutWorker

NOT_SCORED = "not scored"
"""The failure of a rollout that no reward model has heard yet."""


class UnscoredRolloutWorker(RolloutWorker):
    """Samples as a ``RolloutWorker`` does, and gives chunks that can be written as they are."""

    def sample_unscored(self, chunk: Chunk, keep_waveforms: bool) -> ScoredBatch:
        """Samples a chunk.

        Args:
            keep_waveforms: whether the waveforms are wanted too.
        """
        return unscored(self.sample(chunk), keep_waveforms)


UnscoredRolloutActor = ray.remote(UnscoredRolloutWorker)


def unscored(batch: RolloutBatch, keep_waveforms: bool = False) -> ScoredBatch:
    """A chunk without any rewards, for ``rollout_table``."""
    failures: list[list[str | None]] = [[NOT_SCORED] * len(group) for group in batch.waveforms]
    rewards = np.full((len(failures), len(failures[0])), np.nan)
    keep = [prompt.id for prompt in batch.chunk.prompts] if keep_waveforms else []
    return scored_batch(batch, {"reward": RoleScores("", "", rewards, failures)}, keep)
