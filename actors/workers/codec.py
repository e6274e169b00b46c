"""The worker that runs only the codec: stored latents to audio for scoring, users' audio to latents for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from actors.storage.shards import shards_at
from actors.workers.messages import RolloutBatch, ShardRows, StoredShard
from actors.workers.rows import loudness, replace_columns
from tangoflux.data.audio import read_audio
from tangoflux.data.pairs import RatedPair, is_latents_file, pair_table, read_latents
from tangoflux.data.preferences import group_bounds
from tangoflux.data.records import SORT_KEYS, latents_array
from tangoflux.data.waveforms import fill_frames
from tangoflux.errors import DataError
from tangoflux.model.autoencoder import Autoencoder


@dataclass(frozen=True)
class PairChunk:
    """Some of a user's pairs, which become a shard."""

    part: int
    pairs: tuple[RatedPair, ...]

    def __str__(self) -> str:
        return f"the pairs from {self.pairs[0].origin} on"


class CodecWorker:
    """Decodes and encodes with a policy's codec; every row by itself or within its group, whatever the chunk."""

    def __init__(self, policy_dir: Path, threads: int = 1, device: str = "cpu") -> None:
        """Loads the codec.

        Args:
            policy_dir: a directory in the published layout.
            threads: CPU threads of this process.

        Raises:
            CheckpointError: ``policy_dir`` holds no codec.
        """
        torch.set_num_threads(threads)
        self._codec = Autoencoder.load(policy_dir).to(device)
        self._device = device

    def decode(self, shard: StoredShard) -> RolloutBatch:
        """The rollouts of a shard with their audio, as the rollout worker passed them to the reward worker.

        Raises:
            DataError: the shard was changed after it was written.
        """
        rows = shards_at(shard.directory).read_part(shard.part, verify=True)
        rows = rows.sort_by([(name, "ascending") for name in SORT_KEYS])
        latents = latents_array(rows["latents"])
        frames, durations = rows["num_frames"].to_pylist(), rows["duration_s"].to_pylist()
        waveforms = [
            self._decode(latents[first:last, : frames[first]], durations[first]) for first, last in group_bounds(rows)
        ]
        rows = replace_columns(rows, loudness([waveform for group in waveforms for waveform in group]))
        return RolloutBatch(shard.part, rows, waveforms, self._codec.sample_rate_hz)

    def encode(self, chunk: PairChunk, schema: pa.Schema) -> ShardRows:
        """A user's pairs as rows of a ``preference_schema``.

        Raises:
            DataError: a file cannot be read after all; names the pair's line in the manifest.
        """
        chosen = [self._side(pair, pair.chosen) for pair in chunk.pairs]
        rejected = [self._side(pair, pair.rejected) for pair in chunk.pairs]
        return ShardRows(chunk.part, pair_table(chunk.pairs, chosen, rejected, schema))

    def _decode(self, latents: NDArray[Any], duration_s: float) -> list[NDArray[np.float32]]:
        rows = [torch.from_numpy(row.astype(np.float32)) for row in latents]
        return self._codec.decode_rows(rows, [duration_s] * len(rows))

    def _side(self, pair: RatedPair, file: Path) -> NDArray[np.float32]:
        try:
            if is_latents_file(file):
                return read_latents(file).astype(np.float32)
            waveform, rate = read_audio(file, pair.prompt.duration_s)
        except DataError as error:
            raise DataError(f"{pair.origin}: {error}") from None
        return self._encode(waveform, rate, pair)

    @torch.no_grad()
    def _encode(self, waveform: NDArray[np.float32], rate: int, pair: RatedPair) -> NDArray[np.float32]:
        """Latents (frames, channels)."""
        audio = fill_frames(waveform, rate, self._codec.config, pair.prompt.duration_s, pair.num_frames)
        return self._codec.encode(audio[None].to(self._device))[0].float().cpu().numpy()


CodecActor = ray.remote(CodecWorker)


def pair_chunks(pairs: Sequence[RatedPair], size: int) -> list[PairChunk]:
    """The pairs in their order, cut into chunks of ``size``; the last may have fewer."""
    edges = [*range(0, len(pairs), size), len(pairs)]
    return [PairChunk(part, tuple(pairs[first:last])) for part, (first, last) in enumerate(pairwise(edges))]
