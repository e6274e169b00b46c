"""Prepared clips for pretraining: their order in an epoch, and each clip's noise, caption and latents."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.learner.batches import NoiseKey, epoch_order
from actors.storage.shards import ShardWriter
from tangoflux.data.records import latents_array
from tangoflux.errors import DataError
from tangoflux.flow import logit_normal_sigma
from tangoflux.seeding import seeded_generator

COLUMNS = ("id", "captions", "duration_s", "num_frames")
"""The columns kept in memory for all clips; ``mean`` and ``scale`` stay on disk until a batch needs them."""

WINDOW_BYTES = 512_000_000
"""Size of a window: shards that are in memory together and whose clips are shuffled together."""


@dataclass(frozen=True)
class ClipBatch:
    """B clips, padded to the frames F of the longest.

    Attributes:
        captions: one per clip.
        dropped: indices of the clips that are trained without their caption.
        duration_s: (B,) seconds.
        latents, noise: (B, F, C); sigma: (B,).
        frame_mask: (B, F), true for a clip's frames, false for padding.
    """

    captions: list[str]
    dropped: list[int]
    duration_s: Tensor
    latents: Tensor
    noise: Tensor
    sigma: Tensor
    frame_mask: Tensor

    def to(self, device: torch.device) -> ClipBatch:
        """A copy on another device."""
        tensors = (self.duration_s, self.latents, self.noise, self.sigma, self.frame_mask)
        return ClipBatch(self.captions, self.dropped, *(tensor.to(device) for tensor in tensors))


@dataclass(frozen=True)
class Draw:
    """What is drawn at random for a clip in an epoch."""

    sigma: Tensor
    noise: Tensor
    posterior: Tensor
    caption: int
    is_dropped: bool


class ClipData:
    """Shards of ``records.latent_schema``: captions in memory, the latents of one window of shards at a time."""

    def __init__(self, directory: Path, window_bytes: int = WINDOW_BYTES) -> None:
        """Reads everything but the latents.

        Raises:
            DataError: there are no clips, or two with the same id.
        """
        self._shards = ShardWriter(directory)
        self._by_part = self._shards.shards()
        tables = {part: self._shards.read_shard(shard, COLUMNS) for part, shard in self._by_part.items()}
        self._locations = [(part, row) for part, table in tables.items() for row in range(len(table))]
        rows = [row for table in tables.values() for row in table.to_pylist()]
        if not rows:
            raise DataError(f"{directory} holds no clips to train on")
        self.ids = [row["id"] for row in rows]
        if len(set(self.ids)) < len(self.ids):
            raise DataError(f"{directory} holds clips with the same id: prepare them again")
        self.captions = [row["captions"] for row in rows]
        self.duration_s = [row["duration_s"] for row in rows]
        self.num_frames = [row["num_frames"] for row in rows]
        largest = max(shard.bytes for shard in self._by_part.values())
        self._window = max(1, window_bytes // largest)
        self._loaded: OrderedDict[int, tuple[NDArray[Any], NDArray[Any]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self._latents(0)[0].shape[1]

    def order(self, rows: Collection[int], key: NoiseKey) -> list[int]:
        """The order in which an epoch sees ``rows``: shards are shuffled, then the rows of each window of shards."""
        by_shard: dict[int, list[int]] = {}
        for row in sorted(rows):
            by_shard.setdefault(self._locations[row][0], []).append(row)
        shards = epoch_order(list(by_shard), (*key[:2], f"shards {key[2]}"))
        order: list[int] = []
        for start in range(0, len(shards), self._window):
            window = shards[start : start + self._window]
            window_rows = [row for part in window for row in by_shard[part]]
            order += epoch_order(window_rows, (*key[:2], f"window {window[0]} {key[2]}"))
        return order

    def batch(self, rows: Sequence[int], draws: Sequence[Draw]) -> ClipBatch:
        """The clips at ``rows`` with their draws."""
        frames = torch.tensor([self.num_frames[row] for row in rows])
        latents = [self._sample(row, draw) for row, draw in zip(rows, draws, strict=True)]
        return ClipBatch(
            [self.captions[row][draw.caption] for row, draw in zip(rows, draws, strict=True)],
            [index for index, draw in enumerate(draws) if draw.is_dropped],
            torch.tensor([self.duration_s[row] for row in rows], dtype=torch.float32),
            _padded(latents),
            _padded([draw.noise for draw in draws]),
            torch.cat([draw.sigma for draw in draws]),
            torch.arange(int(frames.max())) < frames[:, None],
        )

    def draw(self, row: int, key: NoiseKey, caption_dropout: float, sample_posterior: bool) -> Draw:
        """The draw of a clip in an epoch, which depends on the key and the clip's id only."""
        source = seeded_generator("pretraining noise", *key, self.ids[row])
        shape = (self.num_frames[row], self.channels)
        sigma, noise = logit_normal_sigma(1, source), torch.randn(shape, generator=source)
        posterior = torch.randn(shape, generator=source) if sample_posterior else torch.zeros(shape)
        caption = int(torch.randint(len(self.captions[row]), (), generator=source))
        return Draw(sigma, noise, posterior, caption, bool(torch.rand((), generator=source) < caption_dropout))

    def fixed_draw(self, row: int, sigma: float, name: str) -> Draw:
        """The draw of a validation: the sigma, the posterior's mean, and noise that depends on ``name`` and clip."""
        shape = (self.num_frames[row], self.channels)
        noise = torch.randn(shape, generator=seeded_generator("pretraining measurement", name, self.ids[row]))
        return Draw(torch.tensor([sigma]), noise, torch.zeros(shape), 0, False)

    def _sample(self, row: int, draw: Draw) -> Tensor:
        mean, scale = (torch.from_numpy(part.astype(np.float32)) for part in self._latents(row))
        return mean + scale * draw.posterior

    def _latents(self, row: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Mean and scale (frames, channels) of a clip."""
        part, index = self._locations[row]
        if part not in self._loaded:
            # A batch may still contain rows of the previous window.
            while len(self._loaded) >= 2 * self._window:
                self._loaded.popitem(last=False)
            table = self._shards.read_shard(self._by_part[part], ("mean", "scale")).combine_chunks()
            self._loaded[part] = (latents_array(table["mean"]), latents_array(table["scale"]))
        mean, scale = self._loaded[part]
        return mean[index, : self.num_frames[row]], scale[index, : self.num_frames[row]]


def _padded(rows: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
