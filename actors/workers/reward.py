"""Scoring: reward models score one group at a time; a failure is marked and is never a score."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from actors.workers.messages import RolloutBatch, ScoredPrompts, ShardRows
from actors.workers.rows import Scores, with_scores
from tangoflux.data.flac import encode_flac
from tangoflux.errors import RewardError
from tangoflux.rewards import Grader, Reward, grade, load_reward, score

logger = logging.getLogger(__name__)

MAX_REASON = 160
"""Longest error message that a row keeps, in characters."""

PRIVATE = re.compile(r"0x[0-9a-fA-F]+|(?<!\w)/[^\s'\"]+")
"""Addresses and paths, which differ between runs and machines and do not belong into a dataset."""


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

    def score(self, batch: RolloutBatch, role: str = "reward") -> Scores:
        """Scores every group of the batch.

        A reward model that raises, or returns no finite number, marks the group or the sample; the others are scored.
        """
        reward = self._rewards[role]
        groups = [score_group(reward, text, audio, batch.sample_rate_hz) for _, text, audio in batch.groups()]
        rewards = np.concatenate([rewards for rewards, _ in groups])
        return Scores(reward.name, reward.checkpoint, rewards, [why for _, failures in groups for why in failures])

    def score_to_rows(self, batch: RolloutBatch) -> ShardRows:
        """Scores the batch for training: its rows with rewards, for a ``WriterWorker``."""
        return ShardRows(batch.part, with_scores(batch.rows, self.score(batch)))

    def score_heldout(self, batch: RolloutBatch, roles: Sequence[str], audio_ids: Collection[str]) -> ScoredPrompts:
        """Scores held-out prompts, of which the batch has one sample each, by every role.

        Args:
            audio_ids: ids of the prompts whose audio is returned too, for people to listen to.
        """
        ids = batch.rows["prompt_id"].to_pylist()
        by_role = [self._figures(batch, role) for role in roles]
        return ScoredPrompts(
            scores={
                id: {name: value for figures in row for name, value in figures.items()}
                for id, *row in zip(ids, *by_role, strict=True)
            },
            audio={
                id: encode_flac(audio[0], batch.sample_rate_hz) for id, _, audio in batch.groups() if id in audio_ids
            },
        )

    def _figures(self, batch: RolloutBatch, role: str) -> list[dict[str, float]]:
        """The figures of each row: the role's score, or every aspect of a detector that grades."""
        reward = self._rewards[role]
        if role != "exact" or not isinstance(reward, Grader):
            return [{role: value} for value in self.score(batch, role).rewards.tolist()]
        return [
            row for _, text, audio in batch.groups() for row in grade_group(reward, text, audio, batch.sample_rate_hz)
        ]


RewardActor = ray.remote(RewardWorker)


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


def grade_group(
    grader: Grader, prompt: str, waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
) -> list[dict[str, float]]:
    """The aspects of the samples of one prompt; NaN where the grader cannot tell."""
    unknown = [dict.fromkeys(grader.aspects, np.nan)] * len(waveforms)
    if not all(np.isfinite(waveform).all() for waveform in waveforms):
        return unknown
    try:
        return grade(grader, [prompt] * len(waveforms), waveforms, sample_rate_hz)
    except RewardError:  # only this group has no aspects
        logger.warning("detector %s failed for %r", grader.name, prompt, exc_info=True)
        return unknown


def _failed(samples: int, reason: str) -> tuple[NDArray[np.float64], list[str | None]]:
    return np.full(samples, np.nan), [reason] * samples


def _reason(error: BaseException) -> str:
    message = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {PRIVATE.sub('...', message)}"[:MAX_REASON]
