"""Workers that run the codec alone: stored latents to waveforms for scoring, users' audio to latents for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from actors.workers.chunk import Chunk
from actors.workers.rollout import RolloutBatch
from tangoflux.data.audio import fill_frames, read_audio
from tangoflux.data.pairs import RatedPair, is_latents_file, read_latents
from tangoflux.data.preferences import group_bounds
from tangoflux.data.prompts import Prompt
from tangoflux.data.records import latents_array
from tangoflux.errors import DataError
from tangoflux.model.autoencoder import Autoencoder
from tangoflux.sampling_params import SamplingParams


@dataclass(frozen=True)
class StoredChunk:
    """A shard of rollouts in canonical order, with as many samples of every prompt."""

    part: int
    table: pa.Table

    def __str__(self) -> str:
        return f"shard {self.part}"


@dataclass(frozen=True)
class PairChunk:
    """Some of a user's pairs, which become a shard."""

    part: int
    pairs: tuple[RatedPair, ...]

    def __str__(self) -> str:
        return f"the pairs from {self.pairs[0].origin} on"


@dataclass(frozen=True)
class PairLatents:
    """The latents of a ``PairChunk``: for each pair float32 (frames, channels)."""

    chosen: list[NDArray[np.float32]]
    rejected: list[NDArray[np.float32]]


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

    def decode(self, stored: StoredChunk) -> RolloutBatch:
        """The waveforms of stored rollouts, as the rollout worker gave them to the reward worker; without latents."""
        table = stored.table
        latents, rows = latents_array(table["latents"]), table.drop_columns(["latents"]).to_pylist()
        groups = [slice(first, last) for first, last in group_bounds(table)]
        prompts = [
            Prompt(row["prompt_id"], row["prompt"], row["duration_s"]) for row in (rows[g.start] for g in groups)
        ]
        seeds = tuple(tuple(row["seed"] for row in rows[group]) for group in groups)
        first = rows[0]
        return RolloutBatch(
            chunk=Chunk(stored.part, first["iteration"], tuple(prompts), seeds),
            policy_version=first["policy_version"],
            params=SamplingParams(first["num_steps"], first["guidance_scale"], first["negative_prompt"]),
            latents=[],
            waveforms=[
                self._decode(latents[group, : rows[group.start]["num_frames"]], prompt)
                for group, prompt in zip(groups, prompts, strict=True)
            ],
            sample_rate_hz=self._codec.sample_rate_hz,
            created_at=first["created_at"],
            worker=first["worker"],
            seconds=first["seconds"],
        )

    def encode(self, chunk: PairChunk) -> PairLatents:
        """The latents of users' pairs.

        Raises:
            DataError: a file cannot be read after all; names the pair's place in the manifest.
        """
        return PairLatents(
            chosen=[self._side(pair, pair.chosen) for pair in chunk.pairs],
            rejected=[self._side(pair, pair.rejected) for pair in chunk.pairs],
        )

    def _decode(self, latents: NDArray[np.float32], prompt: Prompt) -> list[NDArray[np.float32]]:
        rows = [torch.from_numpy(row.astype(np.float32)) for row in latents]
        return self._codec.decode_rows(rows, [prompt.duration_s] * len(rows))

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


def stored_chunk(part: int, table: pa.Table, source: str) -> StoredChunk:
    """A shard for ``CodecWorker.decode``.

    Args:
        table: rows of ``rollout_schema``, in canonical order.
        source: what errors call it.

    Raises:
        DataError: its prompts have different numbers of samples.
    """
    sizes = {last - first for first, last in group_bounds(table)}
    if len(sizes) > 1:
        raise DataError(f"{source}: prompts have from {min(sizes)} to {max(sizes)} samples, expected as many of each")
    return StoredChunk(part, table)


def pair_chunks(pairs: Sequence[RatedPair], size: int) -> list[PairChunk]:
    """The pairs in their order, cut into chunks of ``size``; the last may have fewer."""
    edges = [*range(0, len(pairs), size), len(pairs)]
    return [PairChunk(part, tuple(pairs[first:last])) for part, (first, last) in enumerate(pairwise(edges))]
