"""Trains the miniature's autoencoder: an AutoencoderOobleck that codes log-mel frames of sound-world scenes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tangoflux.miniature_training.data import Log
from tangoflux.model.autoencoder import Autoencoder, AutoencoderConfig
from tangoflux.model.mel_front import MelFrontConfig
from tangoflux.soundworld.events import SAMPLE_RATE_HZ
from tangoflux.soundworld.scenes import Scene, random_scene, render

CONFIG = AutoencoderConfig(
    encoder_hidden_size=64,
    downsampling_ratios=(2, 2),
    channel_multiples=(2, 4),
    decoder_channels=64,
    decoder_input_channels=32,
    audio_channels=1,
    sampling_rate=SAMPLE_RATE_HZ,
    front=MelFrontConfig(),
)

_CROP_FRAMES = 64  # mel frames: about 1 s, enough for a codec that looks 0.3 s around
_KL_WEIGHT = 1e-3
_LATENT_NOISE = 0.1  # relative: the policy's latents are never exact, so the decoder learns to bear it
_REPORT_EVERY, _SAVE_EVERY = 50, 500


@dataclass(frozen=True)
class VaeTraining:
    """Sizes of the autoencoder's training."""

    steps: int = 3000
    scenes: int = 4000
    seed: int = 100
    batch_size: int = 32
    learning_rate: float = 1.5e-3


DECODER_TRAINING = VaeTraining(steps=5000, scenes=8000, seed=110, learning_rate=1e-3)
"""Of the decoder alone, after that of the whole."""


def train_vae(output_dir: Path, cache_dir: Path, log: Log, config: VaeTraining) -> None:
    """Trains on one thread and writes ``vae.safetensors`` and ``vae_config.json``.

    Args:
        output_dir: gets the autoencoder.
        cache_dir: keeps the state from which an interrupted training resumes.
        log: takes a progress line.
        config: how long and how fast.
    """
    rng = np.random.default_rng(config.seed)
    waveforms = [render(random_scene(rng, "train"), rng) for _ in range(config.scenes)]
    log(f"rendered {config.scenes} scenes")
    torch.manual_seed(0)
    model = Autoencoder(CONFIG)
    frames = _log_mels(model, waveforms)
    _train(model, frames, cache_dir / "vae.pt", log, config)
    output_dir.mkdir(parents=True, exist_ok=True)
    _with_unit_latents(model.eval(), frames).save(output_dir, torch.float16)


def train_decoder(vae_dir: Path, output_dir: Path, cache_dir: Path, log: Log, config: VaeTraining) -> None:
    """Trains only the decoder further, half on sounds at the same time, which are the hardest to code.

    The latents stay what they are, so that a policy can be trained on them meanwhile.

    Args:
        vae_dir: holds the autoencoder of ``train_vae``.
        output_dir: gets the autoencoder with the better decoder.
        cache_dir: keeps the state from which an interrupted training resumes.
        log: takes a progress line.
        config: how long and how fast.
    """
    rng = np.random.default_rng(config.seed)
    scenes = [_overlap(rng) if n % 2 else random_scene(rng, "train") for n in range(config.scenes)]
    waveforms = [render(scene, rng) for scene in scenes]
    log(f"rendered {config.scenes} scenes")
    torch.manual_seed(0)
    model = Autoencoder.load(vae_dir)
    model.oobleck.decoder.requires_grad_(True)
    _train(model, _log_mels(model, waveforms), cache_dir / "decoder.pt", log, config)
    output_dir.mkdir(parents=True, exist_ok=True)
    model.save(output_dir, torch.float16)


def _overlap(rng: np.random.Generator) -> Scene:
    while not (scene := random_scene(rng, "train")).overlap:
        pass
    return scene


def _train(model: Autoencoder, frames: list[Tensor], checkpoint: Path, log: Log, config: VaeTraining) -> None:
    generator = torch.Generator().manual_seed(1)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.05
    )
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    for step in range(_resume(parts, checkpoint), config.steps):
        error, kl = _losses(model, _crops(frames, config.batch_size, generator))
        optimizer.zero_grad()
        (error + _KL_WEIGHT * min(1.0, step / (0.2 * config.steps)) * kl).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if step % _REPORT_EVERY == 0 or step == config.steps - 1:
            figures = f"mel error {error.item():.4f}, KL {kl.item():.3f} nats a value"
            log(f"{checkpoint.stem} step {step + 1}/{config.steps}: {figures}")
        if (step + 1) % _SAVE_EVERY == 0:
            _save(parts, step + 1, checkpoint)


def _save(parts: Mapping[str, Any], step: int, checkpoint: Path) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"step": step, **{name: part.state_dict() for name, part in parts.items()}}, checkpoint.with_suffix(".tmp")
    )
    os.replace(checkpoint.with_suffix(".tmp"), checkpoint)


def _resume(parts: Mapping[str, Any], checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


@torch.no_grad()
def _log_mels(model: Autoencoder, waveforms: Sequence[NDArray[np.float32]]) -> list[Tensor]:
    assert model.front is not None
    rows: list[Tensor] = []
    for samples in waveforms:
        waveform = torch.nn.functional.pad(torch.from_numpy(samples), (0, -len(samples) % model.hop))
        rows.append(model.front.analyse(waveform[None])[0].half())
    return rows


def _crops(frames: list[Tensor], batch_size: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randint(len(frames), (batch_size,), generator=generator).tolist()
    crops: list[Tensor] = []
    for index in chosen:
        last = frames[index].shape[1] - _CROP_FRAMES
        start = int(torch.randint(max(last, 0) + 1, (1,), generator=generator))
        crops.append(frames[index][:, start : start + _CROP_FRAMES].float())
    return torch.stack(crops)


def _losses(model: Autoencoder, frames: Tensor) -> tuple[Tensor, Tensor]:
    posterior = model.oobleck.encode(frames, return_dict=False)[0]
    latents = posterior.sample()
    noise = torch.randn_like(latents) * latents.detach().std() * _LATENT_NOISE
    # diffusers asks for a FloatTensor, which no tensor is to a type checker.
    decoded = model.oobleck.decode(latents + noise, return_dict=False)[0]  # pyright: ignore[reportArgumentType]
    error = (decoded - frames).abs().mean() + (decoded - frames).square().mean()
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.var.log()).mean()
    return error, kl


@torch.no_grad()
def _with_unit_latents(model: Autoencoder, frames: list[Tensor]) -> Autoencoder:
    """The same autoencoder with ``latent_scale`` set so that its latents have unit standard deviation."""
    posteriors = (model.oobleck.encode(row[None].float(), return_dict=False)[0] for row in frames[:512])
    latents = torch.cat([posterior.mean[0].T for posterior in posteriors])
    scaled = Autoencoder(replace(model.config, latent_scale=round(latents.std().item(), 4)))
    scaled.load_state_dict(model.state_dict())
    return scaled
