"""Scenes of the sound world as the autoencoder's latents: what the base policy is pretrained on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tangoflux.autoencoder import Autoencoder
from tangoflux.soundworld.background import add_background
from tangoflux.soundworld.scenes import MAX_DURATION_S, Scene, random_scene, render
from tangoflux.soundworld.training.data import Log

BACKGROUND_SHARE = 0.5
"""Share of the pretraining recordings with a background that no caption names, as recordings from the web have."""

_LOG_EVERY = 1000


@dataclass(frozen=True)
class Clip:
    """A scene and its latents (frames, channels), float32."""

    scene: Scene
    latents: Tensor


def encoded_scenes(autoencoder: Autoencoder, n: int, seed: int, file: Path, log: Log) -> list[Clip]:
    """Draws, renders and encodes ``n`` training scenes; the latents are kept in ``file`` for a resumed training."""
    rng = np.random.default_rng([seed, 0])
    scenes = [random_scene(rng, "train") for _ in range(n)]
    if not file.exists():
        _encode_all(autoencoder, scenes, seed, file, log)
    latents = np.load(file)
    return [
        Clip(scene, torch.from_numpy(row[: autoencoder.frames_for(scene.duration_s)].astype(np.float32)))
        for scene, row in zip(scenes, latents, strict=True)
    ]


@torch.no_grad()
def _encode_all(autoencoder: Autoencoder, scenes: list[Scene], seed: int, file: Path, log: Log) -> None:
    rng = np.random.default_rng([seed, 1])
    rows = np.zeros((len(scenes), autoencoder.frames_for(MAX_DURATION_S), autoencoder.latent_channels), np.float16)
    for index, scene in enumerate(scenes):
        waveform = add_background(render(scene, rng), rng, BACKGROUND_SHARE)
        latents = autoencoder.encode(torch.from_numpy(waveform)[None, None])[0]
        rows[index, : len(latents)] = latents.numpy()
        if index % _LOG_EVERY == 0:
            log(f"encoded {index} of {len(scenes)} scenes")
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file.with_suffix(".partial.npy"), rows)
    os.replace(file.with_suffix(".partial.npy"), file)
