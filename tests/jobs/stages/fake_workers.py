"""Workers for tests of the stages. Without torch, so that their processes start quickly."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from actors.workers.chunk import Chunk
from actors.workers.fakes import FakeReward, FakeRollout
from actors.workers.messages import RolloutBatch, ScoredPrompts


class Sampler(FakeRollout):
    """Samples noise as the policy version it was given, and dies on prompts that say so."""

    def set_policy(self, version: int, state: Mapping[str, Any]) -> None:
        """Sets the version in the rows."""
        self._version = version

    def sample(self, chunk: Chunk) -> RolloutBatch:
        """A batch of the current version, unless a prompt contains "kill"."""
        if any("kill" in prompt.text for prompt in chunk.prompts):
            os.kill(os.getpid(), signal.SIGKILL)
        batch = super().sample(chunk)
        column = batch.rows.schema.get_field_index("policy_version")
        versions = np.full(len(batch.rows), self._version, batch.rows.schema.field(column).type.to_pandas_dtype())
        return replace(batch, rows=batch.rows.set_column(column, "policy_version", [versions]))


class Scorer(FakeReward):
    """Also scores held-out prompts, by the length of their text."""

    def score_heldout(self, batch: RolloutBatch, roles: Sequence[str], audio_ids: Collection[str]) -> ScoredPrompts:
        """The same score for every role."""
        rows = batch.rows.select(["prompt_id", "prompt"]).to_pylist()
        return ScoredPrompts({row["prompt_id"]: dict.fromkeys(roles, float(len(row["prompt"]))) for row in rows}, {})
