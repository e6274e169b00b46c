"""Scoring: reward models hear one group at a time, and what they cannot score is marked, never scored."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from actors.workers.rollout import RolloutBatch
from actors.workers.writer import ShardRows
from tangoflux.data.records import build_table
from tangoflux.errors import RewardError
from tangoflux.rewards import Reward, load_reward, score

logger = logging.getLogger(__name__)

MAX_REASON = 160
"""Characters of an error's message that a row keeps."""

PRIVATE = re.compile(r"0x[0-9a-fA-F]+|(?<!\w)/[^\s'\"]+")
"""Addresses and paths: they differ between runs and machines, and have no place in a data set."""


@dataclass(frozen=True)
class RoleScores:
    """What one reward model said of a chunk.

    Attributes:
        model: the reward's name.
        checkpoint: its weights.
        rewards: (prompts, samples) float64, NaN where there is no score.
        failures: for each prompt and sample why there is none, or None.
    """

    model: str
    checkpoint: str
    rewards: NDArray[np.float64]
    failures: list[list[str | None]]


@dataclass(frozen=True)
class ScoredBatch:
    """A chunk with its scores.

    Attributes:
        rollouts: the chunk as it was sampled, without waveforms.
        scores: by role, such as "reward" or "judge".
        rms: (prompts, samples) root mean square of each waveform.
        peak: (prompts, samples) its largest absolute value.
        waveforms: for each prompt id that was to be kept, its samples' (audio_channels, samples).
    """

    rollouts: RolloutBatch
    scores: dict[str, RoleScores]
    rms: NDArray[np.float32]
    peak: NDArray[np.float32]
    waveforms: dict[str, list[NDArray[np.float32]]]


class RewardWorker:
    """Scores sampled chunks with one or several reward models."""

    def __init__(self, names: Mapping[str, str], threads: int = 1, device: str = "cpu") -> None:
        """Loads the models.

        Args:
            names: role to name, directory or import path, as ``load_reward`` takes it.
            threads: CPU threads of this process.
            device: where the models compute.
        """
        torch.set_num_threads(threads)
        self._rewards = {role: load_reward(name, device) for role, name in names.items()}

    def score(self, batch: RolloutBatch, roles: Sequence[str], keep_waveforms: Collection[str] = ()) -> ScoredBatch:
        """Scores every group of the chunk by every role.

        A reward model that raises, or gives no finite number, marks the group or the sample; the others are scored.

        Args:
            keep_waveforms: ids of prompts whose waveforms are wanted back, such as those that people listen to.
        """
        return scored_batch(batch, {role: _score(self._rewards[role], batch) for role in roles}, keep_waveforms)

    def score_to_rows(self, batch: RolloutBatch, schema: pa.Schema) -> ShardRows:
        """Scores the chunk for training: its rows as ``rollout_schema`` has them, for a ``WriterWorker``."""
        return ShardRows(batch.chunk.index, rollout_table(self.score(batch, ("reward",)), schema))


RewardActor = ray.remote(RewardWorker)


def scored_batch(
    batch: RolloutBatch, scores: dict[str, RoleScores], keep_waveforms: Collection[str] = ()
) -> ScoredBatch:
    """A chunk with its scores, and how loud its waveforms are; they themselves are left out but for those to keep."""
    return ScoredBatch(
        rollouts=replace(batch, waveforms=[]),
        scores=scores,
        rms=_measure(batch, lambda waveform: np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))),
        peak=_measure(batch, lambda waveform: np.abs(waveform).max()),
        waveforms={
            prompt.id: waveforms
            for prompt, waveforms in zip(batch.chunk.prompts, batch.waveforms, strict=True)
            if prompt.id in keep_waveforms
        },
    )


def score_group(
    reward: Reward, prompt: str, waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
) -> tuple[NDArray[np.float64], list[str | None]]:
    """Scores the samples of one prompt.

    Returns:
        (samples,) rewards, NaN where there is none, and for each sample the reason for that, or None.
    """
    if not all(np.isfinite(waveform).all() for waveform in waveforms):
        return _failed(len(waveforms), "a waveform of the group is not finite")
    try:
        rewards = score(reward, [prompt] * len(waveforms), waveforms, sample_rate_hz)
    except RewardError as error:  # only this group has no score
        logger.warning("reward %s failed for %r", reward.name, prompt, exc_info=True)
        return _failed(len(waveforms), _reason(error.__cause__) if error.__cause__ else str(error))
    return rewards, ["the reward is not a finite number" if missing else None for missing in np.isnan(rewards)]


def rollout_table(scored: ScoredBatch, schema: pa.Schema, role: str = "reward") -> pa.Table:
    """The rows of a chunk in canonical order, as ``rollout_schema`` has them, with the rewards of one role."""
    batch, scores = scored.rollouts, scored.scores[role]
    rows = [(index, k) for index, group in enumerate(batch.latents) for k in range(len(group))]
    prompts = [batch.chunk.prompts[index] for index, _ in rows]
    failures = [scores.failures[index][k] for index, k in rows]
    own: dict[str, Sequence[Any]] = {
        "prompt_id": [prompt.id for prompt in prompts],
        "sample_index": [k for _, k in rows],
        "prompt": [prompt.text for prompt in prompts],
        "duration_s": [prompt.duration_s for prompt in prompts],
        "seed": [batch.chunk.seeds[index][k] for index, k in rows],
        "num_frames": [batch.latents[index].shape[1] for index, _ in rows],
        "latents": [batch.latents[index][k] for index, k in rows],
        "reward": [None if why else scores.rewards[row] for row, why in zip(rows, failures, strict=True)],
        "failure": failures,
        "rms": [scored.rms[row] for row in rows],
        "peak": [scored.peak[row] for row in rows],
    }
    shared = {
        "iteration": batch.chunk.iteration,
        "policy_version": batch.policy_version,
        "num_steps": batch.params.num_steps,
        "guidance_scale": batch.params.guidance_scale,
        "negative_prompt": batch.params.negative_prompt,
        "reward_model": scores.model,
        "reward_checkpoint": scores.checkpoint,
        "created_at": batch.created_at,
        "worker": batch.worker,
        "seconds": batch.seconds / len(rows),
    }
    return build_table(own | {name: [value] * len(rows) for name, value in shared.items()}, schema)


def _score(reward: Reward, batch: RolloutBatch) -> RoleScores:
    groups = [
        score_group(reward, prompt.text, waveforms, batch.sample_rate_hz)
        for prompt, waveforms in zip(batch.chunk.prompts, batch.waveforms, strict=True)
    ]
    return RoleScores(
        reward.name, reward.checkpoint, np.stack([rewards for rewards, _ in groups]), [why for _, why in groups]
    )


def _measure(batch: RolloutBatch, figure: Callable[[NDArray[np.float32]], Any]) -> NDArray[np.float32]:
    return np.array([[figure(waveform) for waveform in group] for group in batch.waveforms], np.float32)


def _failed(samples: int, reason: str) -> tuple[NDArray[np.float64], list[str | None]]:
    return np.full(samples, np.nan), [reason] * samples


def _reason(error: BaseException) -> str:
    message = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {PRIVATE.sub('...', message)}"[:MAX_REASON]
