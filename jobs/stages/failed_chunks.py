"""Chunks of an iteration that crashed every worker that tried them: the iteration continues without their prompts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from actors.storage.atomic import atomic_write
from actors.workers.chunk import Chunk
from tangoflux.data.preferences import PairCounts

FILE = ".failed_chunks.json"
"""Next to the shards' manifest; hidden, because readers of a Parquet directory take every visible file for a shard."""


class FailedChunks:
    """The record of one iteration. A resumed run retries its chunks unless a policy was trained without them."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE

    def clear(self) -> None:
        """Deletes the record."""
        self.path.unlink(missing_ok=True)

    def add(self, chunk: Chunk, error: Exception) -> None:
        """Records a chunk with its prompts and the error because of which it was given up.

        Raises:
            ResourceError: the disk is full or the directory cannot be written.
        """
        prompts = [{"prompt_id": prompt.id, "prompt": prompt.text} for prompt in chunk.prompts]
        with atomic_write(self.path) as temporary:
            rows = [*self._rows(), {"part": chunk.index, "reason": str(error), "prompts": prompts}]
            temporary.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def parts(self) -> set[int]:
        """Numbers of the failed chunks."""
        return {row["part"] for row in self._rows()}

    def counts(self) -> PairCounts:
        """The failed chunks' groups, counted as dropped."""
        reasons = Counter[str]()
        for row in self._rows():
            reasons["the chunk ended its workers"] += len(row["prompts"])
        return PairCounts(dropped=reasons.total(), reasons=dict(reasons))

    def _rows(self) -> list[dict[str, Any]]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else []
