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

from tangoflux.model.log_mel import LogMel, LogMelConfig
from tangoflux.soundworld.activity import activity_of
from tangoflux.soundworld.background import draw_background, mix_background
from tangoflux.soundworld.events import Samples
from tangoflux.soundworld.scenes import Scene, Split, Unit, random_scene, render_with_units

Log = Callable[[str], None]

_CHUNK = 64


@dataclass(frozen=True)
class RenderedScenes:
    """Scenes with their log-mel frames and the activity of the kinds.

    log_mel (n, 251, 64) is float16, in dB, of audio zero-padded to 4 s; activity (n, 126, kinds) is of 0 and 1.
    """

    scenes: list[Scene]
    log_mel: NDArray[np.float16]
    activity: NDArray[np.bool_]

    def select(self, rows: NDArray[np.int64]) -> tuple[list[Scene], Tensor, Tensor]:
        """Some scenes, their features (B, 251, 64) in float32 and their numbers of frames before the padding (B,)."""
        scenes = [self.scenes[row] for row in rows.tolist()]
        mel = LogMelConfig()
        frames = [round(scene.duration_s * mel.sample_rate_hz / mel.hop) for scene in scenes]
        return scenes, torch.from_numpy(self.log_mel[rows].astype(np.float32)), torch.tensor(frames)


def rendered_scenes(
    split: Split, n: int, seed: int, cache_dir: Path, log: Log, background_share: float = 0.0
) -> RenderedScenes:
    """Draw and render `n` scenes of a split; the features are kept in `cache_dir` for a resumed training.

    Args:
        background_share: of the scenes have a background, whose kind is active from start to end.
    """
    rng = np.random.default_rng([seed, 0])
    scenes = [random_scene(rng, split) for _ in range(n)]
    path = cache_dir / f"scenes-{split}-{n}-{seed}{f'-{background_share:g}' if background_share else ''}.npz"
    if not path.exists():
        _render_all(scenes, seed, path, log, background_share)
    with np.load(path) as kept:
        return RenderedScenes(scenes, kept["log_mel"], kept["activity"])


def _render_all(scenes: list[Scene], seed: int, path: Path, log: Log, background_share: float) -> None:
    log_mel, rng = LogMel(LogMelConfig()), np.random.default_rng([seed, 1])
    features: list[NDArray[np.float16]] = []
    activity: list[NDArray[np.bool_]] = []
    for start in range(0, len(scenes), _CHUNK):
        rendered = [_render(scene, rng, background_share) for scene in scenes[start : start + _CHUNK]]
        waveforms = torch.stack([log_mel.fit(torch.from_numpy(waveform)) for waveform, _ in rendered])
        features.append(log_mel(waveforms).numpy().astype(np.float16))
        activity += [activity_of(units).astype(np.bool_) for _, units in rendered]
        if start % (_CHUNK * 32) == 0:
            log(f"rendered {start} of {len(scenes)} scenes")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, log_mel=np.concatenate(features), activity=np.stack(activity))
    os.replace(partial, path)


def _render(scene: Scene, rng: np.random.Generator, background_share: float) -> tuple[Samples, list[Unit]]:
    waveform, units = render_with_units(scene, rng)
    kind = draw_background(rng, background_share) if background_share else None
    if kind is None:
        return waveform, units
    return mix_background(waveform, kind, rng), [*units, Unit(kind, 0.0, scene.duration_s)]


def augment(log_mel: Tensor, frames: Tensor, generator: torch.Generator) -> Tensor:
    """Change the features as codecs, vocoders and other devices do: equaliser, smearing, noise, loudness.

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
    return torch.where(inside, changed, log_mel).clamp(min=-100.0)


def _smear(power: Tensor, share: Tensor, dim: int) -> Tensor:
    """Give each neighbour along a dimension a share of a cell's power."""
    return (1 - 2 * share) * power + share * (power.roll(1, dim) + power.roll(-1, dim))
