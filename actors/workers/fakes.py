"""Workers without a model: a run of them costs what orchestration and storage cost. For benchmarks and tests."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from actors.workers.chunk import Chunk
from actors.workers.messages import RolloutBatch, ShardRows
from actors.workers.rows import Scores, unscored_rows, with_scores
from tangoflux.data.records import rollout_schema

RATE_HZ = 16_000

PROVENANCE = {"policy_version": 0, "num_steps": 1, "guidance_scale": 1.0, "negative_prompt": "", "worker": "fake"}


class FakeRollout:
    """In place of a ``RolloutWorker``: noise for latents, and 10 ms of silence for audio."""

    def __init__(self, frames: int = 1, channels: int = 1) -> None:
        """Takes the size of the latents of a sample."""
        self._shape = (frames, channels)

    def sample(self, chunk: Chunk) -> RolloutBatch:
        """A batch of the chunk's size; its latents follow from the seeds."""
        latents = [
            np.stack([np.random.default_rng(seed).standard_normal(self._shape, np.float32) for seed in seeds])
            for seeds in chunk.seeds
        ]
        waveforms = [[np.zeros((1, RATE_HZ // 100), np.float32) for _ in seeds] for seeds in chunk.seeds]
        provenance = PROVENANCE | {"created_at": datetime.now(UTC), "seconds": 0.0}
        rows = unscored_rows(chunk, latents, waveforms, rollout_schema(*self._shape), provenance)
        return RolloutBatch(chunk.index, rows, waveforms, RATE_HZ)


class FakeReward:
    """In place of a ``RewardWorker``: the reward is the sample's index."""

    def score_to_rows(self, batch: RolloutBatch) -> ShardRows:
        """The batch's rows with their rewards."""
        rewards = batch.rows["sample_index"].to_numpy().astype(np.float64)
        scores = Scores("fake", "none", rewards, [None] * len(rewards), [("fake", rewards)])
        return ShardRows(batch.part, with_scores(batch.rows, scores))
