"""The worker that writes shards of rollouts and their pairs, which so bypass the driver. Without torch."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import ray

from actors.storage.object_store import Location
from actors.storage.samples import SampleFolder
from actors.storage.shards import shards_at
from actors.workers.messages import Destination, RolloutBatch, ShardRows, StoredShard, WrittenShard
from tangoflux.data.components import ComponentSums
from tangoflux.data.flac import encode_flac
from tangoflux.data.health import HealthSums
from tangoflux.data.preferences import make_pairs


class WriterWorker:
    """Writes shards. A shard that was written before stays as it is, so a chunk may arrive twice.

    All methods raise ResourceError if the disk is full, or the directory or store cannot be written.
    """

    def write(self, shard: ShardRows, destination: Destination) -> WrittenShard:
        """Writes a shard of scored rollouts and the shard of their preference pairs."""
        shards_at(destination.rollouts).write(shard.part, shard.rows)
        return self._pair(shard.part, shard.rows, destination)

    def pair(self, shard: StoredShard, destination: Destination) -> WrittenShard:
        """Writes the pairs of a shard of rollouts that was written before, if they are missing.

        Raises:
            DataError: the shard was changed after it was written.
        """
        return self._pair(shard.part, shards_at(shard.directory).read_part(shard.part, verify=True), destination)

    def write_rows(self, shard: ShardRows, directory: Location) -> int:
        """Writes a shard of any rows; returns their number."""
        shards_at(directory).write(shard.part, shard.rows)
        return len(shard.rows)

    def write_unscored(self, batch: RolloutBatch, directory: Location, audio_dir: Path | None) -> int:
        """Writes a shard of rollouts without rewards, and every sample as FLAC where there is an ``audio_dir``.

        Returns:
            the number of rows.
        """
        if audio_dir:
            _write_audio(batch, SampleFolder(audio_dir))
        return self.write_rows(ShardRows(batch.part, batch.rows), directory)

    def _pair(self, part: int, rows: pa.Table, destination: Destination) -> WrittenShard:
        pairs, counts = make_pairs(rows, destination.min_margin)
        shards_at(destination.preferences).write(part, pairs)
        weights = frozenset(rows["reward_checkpoint"].unique().to_pylist())
        return WrittenShard(part, len(rows), counts, HealthSums.of(rows), ComponentSums.of(rows), weights)


WriterActor = ray.remote(WriterWorker)


def _write_audio(batch: RolloutBatch, folder: SampleFolder) -> None:
    """Every sample as ``<prompt id>-<sample index>.flac``."""
    columns = ["iteration", "prompt_id", "sample_index", "prompt", "duration_s"]
    waveforms = [waveform for group in batch.waveforms for waveform in group]
    for row, waveform in zip(batch.rows.select(columns).to_pylist(), waveforms, strict=True):
        flac = encode_flac(waveform, batch.sample_rate_hz)
        name = f"{row['prompt_id']}-{row['sample_index']}"
        folder.write(row["iteration"], name, row["prompt"], row["duration_s"], flac, {})
