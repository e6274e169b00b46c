"""What one process hears of a policy's samples of held-out prompts: every figure of each, and how much they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from actors.storage.object_store import Location
from actors.workers.chunk import Chunk, heldout_chunks
from actors.workers.rollout import RolloutWorker
from jobs.options.bench import HeldoutSamples
from jobs.options.crpo import RunConfig
from jobs.stages.pools import rollout_args
from tangoflux.data.prompts import Prompt
from tangoflux.rewards import Grader, Reward, grade, load_reward, score
from tangoflux.rewards.embedding import EmbeddingReward
from tangoflux.soundworld.bank import bank

DIVERSITY = "diversity"
"""One less the mean cosine of the judge's embeddings of two samples of a prompt."""

Figures = dict[str, NDArray[np.float64]]
"""By figure (P, N) of N samples of each of P prompts, NaN where there is none; of ``DIVERSITY`` (P, 1)."""


@dataclass(frozen=True)
class Heldout:
    """Held-out prompts, and how they are sampled and measured: as the run of ``config`` does."""

    prompts: list[Prompt]
    num_samples: int
    config: RunConfig

    @property
    def chunks(self) -> list[Chunk]:
        """The prompts, with the same noise for every policy."""
        of_chunk = self.config.rollouts.chunk_prompts
        return heldout_chunks(self.prompts, 0, self.config.heldout.seed, self.num_samples, of_chunk)


def heldout_of(config: RunConfig, samples: HeldoutSamples) -> Heldout:
    """The sound world's held-out prompts for the policies of a run, in the order of their ids."""
    prompts = bank(samples.heldout_split, samples.heldout_num_prompts, config.heldout.seed)
    return Heldout(sorted(prompts, key=lambda prompt: prompt.id), samples.heldout_num_samples, config)


def measure(policy: Location, heldout: Heldout) -> Figures:
    """Samples the prompts with a policy and scores every sample, in this process."""
    config = heldout.config
    sampler = RolloutWorker(*rollout_args(policy, config.sampling, config.rollouts))
    models = {role: load_reward(name) for role, name in config.rewards.roles.items()}
    rows = [
        _figures(models, text, audio, batch.sample_rate_hz)
        for batch in map(sampler.sample, heldout.chunks)
        for _, text, audio in batch.groups()
    ]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


measure_remotely: Any = ray.remote(num_cpus=1)(measure)


def _figures(
    models: Mapping[str, Reward], text: str, audio: Sequence[NDArray[np.float32]], rate_hz: int
) -> dict[str, Sequence[float] | NDArray[np.float64]]:
    texts, found = [text] * len(audio), dict[str, Any]()
    for role, model in models.items():
        if role == "exact" and isinstance(model, Grader):
            graded = grade(model, texts, audio, rate_hz)
            found |= {aspect: [row[aspect] for row in graded] for aspect in model.aspects}
        else:
            found[role] = score(model, texts, audio, rate_hz)
    judge = models.get("judge")
    if isinstance(judge, EmbeddingReward) and len(audio) > 1:
        found[DIVERSITY] = [_diversity(judge.embed_audio(audio, rate_hz))]
    return found


def _diversity(embeddings: torch.Tensor) -> float:
    """One less the mean cosine of different rows, unit vectors (N, d)."""
    cosines = embeddings @ embeddings.T
    count = len(embeddings)
    return 1 - float(cosines.sum() - cosines.trace()) / (count * (count - 1))
