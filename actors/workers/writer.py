"""The worker that writes shards, so that their rows never pass through the driver. It needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import ray

from actors.storage.object_store import ObjectStorePath
from actors.storage.shards import shards_at
from tangoflux.data.preferences import PairCounts, make_pairs


@dataclass(frozen=True)
class ShardRows:
    """What becomes shard number ``part``."""

    part: int
    table: pa.Table


@dataclass(frozen=True)
class Written:
    """A shard that is on disk: its rows, and what will become of their groups."""

    rows: int
    counts: PairCounts


class WriterWorker:
    """Writes shards. One that was written already stays as it is, so that a chunk may come twice."""

    def write(self, shard: ShardRows, directory: Path | ObjectStorePath) -> Written:
        """Writes a shard of rollouts.

        Raises:
            ResourceError: the disk is full, or the directory or store cannot be written.
        """
        shards_at(directory).write(shard.part, shard.table)
        return Written(len(shard.table), make_pairs(shard.table)[1])


WriterActor = ray.remote(WriterWorker)
