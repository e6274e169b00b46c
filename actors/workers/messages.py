"""What workers pass to each other, one message a stage. Without torch, which the writer never imports.

rollout or codec worker  --RolloutBatch-->  reward worker  --ShardRows-->  writer  --WrittenShard-->  driver
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.storage.object_store import Location
from tangoflux.data.components import ComponentSums
from tangoflux.data.health import HealthSums
from tangoflux.data.preferences import PairCounts, group_bounds

NOT_SCORED = "not scored"
"""The failure of a rollout that no reward model has scored yet."""


@dataclass(frozen=True)
class RolloutBatch:
    """The rollouts of one shard, not scored yet, and their audio.

    Attributes:
        part: number of the shard.
        rows: a table of ``rollout_schema`` in canonical order; the failure of each row is ``NOT_SCORED``.
        waveforms: of each prompt and sample float32 (audio_channels, samples) in [-1, 1], decoded from the latents in
            ``rows``.
    """

    part: int
    rows: pa.Table
    waveforms: list[list[NDArray[np.float32]]]
    sample_rate_hz: int

    def groups(self) -> Iterator[tuple[str, str, list[NDArray[np.float32]]]]:
        """Id, text and waveforms of each prompt."""
        ids, texts = self.rows["prompt_id"], self.rows["prompt"]
        for (first, _), waveforms in zip(group_bounds(self.rows), self.waveforms, strict=True):
            yield ids[first].as_py(), texts[first].as_py(), waveforms


@dataclass(frozen=True)
class ShardRows:
    """The rows of shard number ``part``."""

    part: int
    rows: pa.Table


@dataclass(frozen=True)
class StoredShard:
    """A shard that is in storage."""

    directory: Location
    part: int

    def __str__(self) -> str:
        return f"shard {self.part} of {self.directory}"


@dataclass(frozen=True)
class Destination:
    """Where an iteration's shards go.

    Attributes:
        rollouts, preferences: directories.
        min_margin: a pair is made when the best reward exceeds the worst by more than this.
    """

    rollouts: Location
    preferences: Location
    min_margin: float = 0.0


@dataclass(frozen=True)
class WrittenShard:
    """What the driver learns of a shard: how many rows, what became of their groups, and sums of their figures.

    Attributes:
        weights: the checkpoints of the reward that scored the rows.
    """

    part: int
    rows: int
    counts: PairCounts
    health: HealthSums
    components: ComponentSums
    weights: frozenset[str]


@dataclass(frozen=True)
class ScoredPrompts:
    """Scores of held-out prompts, each of one sample.

    Attributes:
        scores: by prompt id and role; NaN where there is none.
        audio: FLAC files by prompt id, of the prompts whose audio was asked for.
    """

    scores: dict[str, dict[str, float]]
    audio: dict[str, bytes]
