"""Rendered scenes as log-mel features, kept on disk, and what a codec or a room may do to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tangoflux.log_mel import LogMel, LogMelConfig
from tangoflux.soundworld.scenes import Scene, Split, random_scene, render

Log = Callable[[str], None]

_CHUNK = 64


@dataclass(frozen=True)
class RenderedScenes:
    """Scenes with their log-mel frames (n, 251, 64), float16, in dB, zero-padded audio up to 4 s."""

    scenes: list[Scene]
    log_mel: NDArray[np.float16]

    def select(self, rows: NDArray[np.int64]) -> tuple[list[Scene], Tensor, Tensor]:
        """Some scenes, their features (B, 251, 64) in float32 and their numbers of frames before the padding (B,)."""
        scenes = [self.scenes[row] for row in rows.tolist()]
        mel = LogMelConfig()
        frames = [round(scene.duration_s * mel.sample_rate_hz / mel.hop) for scene in scenes]
        return scenes, torch.from_numpy(self.log_mel[rows].astype(np.float32)), torch.tensor(frames)


def rendered_scenes(split: Split, n: int, seed: int, cache_dir: Path, log: Log) -> RenderedScenes:
    """Draw and render `n` scenes of a split; the features are kept in `cache_dir` for a resumed training."""
    rng = np.random.default_rng([seed, 0])
    scenes = [random_scene(rng, split) for _ in range(n)]
    path = cache_dir / f"scenes-{split}-{n}-{seed}.npy"
    if not path.exists():
        _keep(path, _render_all(scenes, seed, log))
    return RenderedScenes(scenes, np.load(path))


def _render_all(scenes: list[Scene], seed: int, log: Log) -> NDArray[np.float16]:
    log_mel, rng = LogMel(LogMelConfig()), np.random.default_rng([seed, 1])
    chunks: list[NDArray[np.float16]] = []
    for start in range(0, len(scenes), _CHUNK):
        waveforms = [log_mel.fit(torch.from_numpy(render(scene, rng))) for scene in scenes[start : start + _CHUNK]]
        chunks.append(log_mel(torch.stack(waveforms)).numpy().astype(np.float16))
        if start % (_CHUNK * 32) == 0:
            log(f"rendered {start} of {len(scenes)} scenes")
    return np.concatenate(chunks)


def _keep(path: Path, array: NDArray[np.float16]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, array)
    os.replace(partial, path)


def augment(log_mel: Tensor, frames: Tensor, generator: torch.Generator) -> Tensor:
    """Change the features as codecs, vocoders and other devices do: equaliser, smearing, noise, loudness, shift.

    Args:
        log_mel: (B, frames, mels) in dB.
        frames: (B,) number of frames before the zero padding; the padding stays silent.
        generator: of all that is drawn.

    Returns:
        The changed features, of the same shape, at least -100 dB.
    """
    batch, length, mels = log_mel.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    equaliser = F.interpolate(uniform(-5.0, 5.0, batch, 1, 6), mels, mode="linear", align_corners=True)
    power = 10.0 ** ((log_mel + equaliser) / 10.0)
    power = _smear(power, uniform(0.0, 0.25, batch, 1, 1) * (uniform(0.0, 1.0, batch, 1, 1) < 0.6), dim=1)
    power = _smear(power, uniform(0.0, 0.2, batch, 1, 1) * (uniform(0.0, 1.0, batch, 1, 1) < 0.6), dim=2)
    loudest = power.amax((1, 2), keepdim=True)
    floor = loudest * 10.0 ** (uniform(-8.5, -2.8, batch, 1, 1) + uniform(-0.7, 0.7, batch, 1, mels))
    noisy = power + floor * -uniform(1e-3, 1.0, batch, length, mels).log()
    power = torch.where(uniform(0.0, 1.0, batch, 1, 1) < 0.8, noisy, power)
    inside = torch.arange(length)[None, :, None] <= frames[:, None, None]
    changed = 10.0 * power.clamp(min=1e-10).log10() + uniform(-9.0, 6.0, batch, 1, 1)
    changed = torch.where(inside, changed, log_mel).clamp(min=-100.0)
    shift = int(torch.randint(0, 7, (1,), generator=generator))
    return F.pad(changed, (0, 0, shift, 0), value=-100.0)[:, :length]


def _smear(power: Tensor, share: Tensor, dim: int) -> Tensor:
    """Give each neighbour along a dimension a share of a cell's power."""
    return (1 - 2 * share) * power + share * (power.roll(1, dim) + power.roll(-1, dim))
