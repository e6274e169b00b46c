"""Scoring: reward models score one group at a time; a failure is marked and is never a score."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from actors.workers.messages import RolloutBatch, ScoredPrompts, ShardRows
from actors.workers.rows import Scores, with_scores
from tangoflux.data.flac import encode_flac
from tangoflux.errors import RewardError, WeightsChangedError
from tangoflux.reward_combination import Combination
from tangoflux.rewards import Grader, Reward, grade, load_reward, parts_of, recombined, score_parts

logger = logging.getLogger(__name__)

MAX_REASON = 160
"""Longest error message that a row keeps, in characters."""

PRIVATE = re.compile(r"0x[0-9a-fA-F]+|(?<!\w)/[^\s'\"]+")
"""Addresses and paths, which differ between runs and machines and do not belong into a dataset."""


class RewardWorker:
    """Scores sampled chunks with one or several reward models."""

    def __init__(
        self,
        names: Mapping[str, str],
        threads: int = 1,
        device: str = "cpu",
        combination: Combination = "sum",
        served: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Loads the models.

        Args:
            names: role to name, directory or import path, as ``load_reward`` takes it.
            threads: CPU threads of this process.
            device: where the models compute.
            combination: how several rewards make the one that ranks the samples of a prompt.
            served: the checkpoints that servers must have, by address; see ``check_reward``.

        Raises:
            ConfigError, CheckpointError, RewardError: see ``load_reward``.
            WeightsChangedError: a server has other weights than ``served`` says.
        """
        torch.set_num_threads(threads)
        self._rewards = {role: load_reward(name, device) for role, name in names.items()}
        self._combination: Combination = combination
        for part in (part for reward in self._rewards.values() for part in parts_of(reward)):
            if served.get(part.reward.name, part.reward.checkpoint) != part.reward.checkpoint:
                raise WeightsChangedError(
                    f"{part.reward.name} has the weights {part.reward.checkpoint!r} now, and had "
                    f"{served[part.reward.name]!r} when the run started"
                )

    def score(self, batch: RolloutBatch, role: str = "reward") -> Scores:
        """Scores every group of the batch; several rewards are summed, as only sums compare prompts and policies.

        A reward model that raises, or returns no finite number, marks the group or the sample; the others are scored.
        """
        return score_batch(self._rewards[role], batch)

    def score_to_rows(self, batch: RolloutBatch) -> ShardRows:
        """Scores the batch for training: its rows with rewards, for a ``WriterWorker``."""
        reward = recombined(self._rewards["reward"], self._combination)
        return ShardRows(batch.part, with_scores(batch.rows, score_batch(reward, batch)))

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


@dataclass(frozen=True)
class GroupScores:
    """The scores of the samples of one prompt.

    Attributes:
        rewards: (samples,), NaN where there is none.
        components: (parts, samples), the raw scores of the rewards that these were made of.
        failures: for each sample why it has no reward, or None.
    """

    rewards: NDArray[np.float64]
    components: NDArray[np.float64]
    failures: list[str | None]


def score_batch(reward: Reward, batch: RolloutBatch) -> Scores:
    """Scores every group of the batch."""
    groups = [score_group(reward, text, audio, batch.sample_rate_hz) for _, text, audio in batch.groups()]
    components = np.concatenate([group.components for group in groups], axis=1)
    return Scores(
        reward.name,
        reward.checkpoint,
        np.concatenate([group.rewards for group in groups]),
        [failure for group in groups for failure in group.failures],
        [(part.name, scores) for part, scores in zip(parts_of(reward), components, strict=True)],
    )


def score_group(
    reward: Reward, prompt: str, waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
) -> GroupScores:
    """Scores the samples of one prompt."""
    if not all(np.isfinite(waveform).all() for waveform in waveforms):
        return _failed(reward, len(waveforms), "a waveform of the group is not finite")
    try:
        rewards, components = score_parts(reward, [prompt] * len(waveforms), waveforms, sample_rate_hz)
    except RewardError as error:  # only this group has no score
        logger.warning("reward %s failed for %r", reward.name, prompt, exc_info=True)
        return _failed(reward, len(waveforms), _reason(error.__cause__) if error.__cause__ else str(error))
    failures = ["the reward is not a finite number" if missing else None for missing in np.isnan(rewards)]
    return GroupScores(rewards, components, failures)


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


def _failed(reward: Reward, samples: int, reason: str) -> GroupScores:
    components = np.full((len(parts_of(reward)), samples), np.nan)
    return GroupScores(np.full(samples, np.nan), components, [reason] * samples)


def _reason(error: BaseException) -> str:
    message = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {PRIVATE.sub('...', message)}"[:MAX_REASON]
