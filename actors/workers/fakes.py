"""Workers that answer at once, with nothing: what a run of them takes is what orchestration costs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from actors.workers.chunk import Chunk
from actors.workers.writer import Written
from tangoflux.data.preferences import PairCounts


class FakeRollout:
    """In the place of a ``RolloutWorker``."""

    def sample(self, chunk: Chunk) -> Chunk:
        """The chunk as it came."""
        return chunk


class FakeReward:
    """In the place of a ``RewardWorker``."""

    def score_to_rows(self, chunk: Chunk, schema: pa.Schema) -> Chunk:
        """The chunk as it came."""
        return chunk


class FakeWriter:
    """In the place of a ``WriterWorker``."""

    def write(self, chunk: Chunk, directory: Path) -> Written:
        """As if every prompt had made a pair; writes nothing."""
        return Written(chunk.samples, PairCounts(made=len(chunk.prompts)))
