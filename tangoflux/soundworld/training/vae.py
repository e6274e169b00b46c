"""Trains the miniature's autoencoder: an AutoencoderOobleck that codes log-mel frames of sound-world scenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tangoflux.autoencoder import Autoencoder, AutoencoderConfig
from tangoflux.mel_front import MelFrontConfig
from tangoflux.soundworld.events import SAMPLE_RATE_HZ

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

_BATCH = 32
_CROP_FRAMES = 64  # mel frames: about 1 s, enough for a codec that looks 0.3 s around
_LEARNING_RATE = 1.5e-3
_KL_WEIGHT = 1e-3
_LATENT_NOISE = 0.1  # relative: the policy's latents are never exact, so the decoder learns to bear it


def train_vae(waveforms: list[NDArray[np.int16]], output_dir: Path, log: Callable[[str], None], steps: int) -> None:
    """Trains on ``waveforms`` (int16 mono at 16 kHz) and writes ``vae.safetensors`` and ``vae_config.json``."""
    torch.manual_seed(0)
    model = Autoencoder(CONFIG)
    frames = _log_mels(model, waveforms)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        error, kl = _losses(model, _crops(frames, generator))
        optimizer.zero_grad()
        (error + _KL_WEIGHT * min(1.0, step / (0.2 * steps)) * kl).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            log(f"vae step {step + 1}/{steps}: mel error {error.item():.4f}, KL {kl.item():.3f} nats a value")
    _with_unit_latents(model.eval(), frames).save(output_dir, torch.float16)


@torch.no_grad()
def _log_mels(model: Autoencoder, waveforms: list[NDArray[np.int16]]) -> list[Tensor]:
    assert model.front is not None
    rows: list[Tensor] = []
    for samples in waveforms:
        waveform = torch.from_numpy(samples.astype(np.float32) / 32768)
        waveform = torch.nn.functional.pad(waveform, (0, -len(waveform) % model.hop))
        rows.append(model.front.analyse(waveform[None])[0].half())
    return rows


def _crops(frames: list[Tensor], generator: torch.Generator) -> Tensor:
    chosen = torch.randint(len(frames), (_BATCH,), generator=generator).tolist()
    crops: list[Tensor] = []
    for index in chosen:
        last = frames[index].shape[1] - _CROP_FRAMES
        start = int(torch.randint(max(last, 0) + 1, (1,), generator=generator))
        crops.append(frames[index][:, start : start + _CROP_FRAMES].float())
    return torch.stack(crops)


def _losses(model: Autoencoder, frames: Tensor) -> tuple[Tensor, Tensor]:
    posterior = model.oobleck.encode(frames).latent_dist
    latents = posterior.sample()
    noise = torch.randn_like(latents) * latents.detach().std() * _LATENT_NOISE
    decoded = model.oobleck.decode(latents + noise).sample
    error = (decoded - frames).abs().mean() + (decoded - frames).square().mean()
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.var.log()).mean()
    return error, kl


@torch.no_grad()
def _with_unit_latents(model: Autoencoder, frames: list[Tensor]) -> Autoencoder:
    """The same autoencoder with ``latent_scale`` set so that its latents have unit standard deviation."""
    latents = torch.cat([model.oobleck.encode(row[None].float()).latent_dist.mean[0].T for row in frames[:512]])
    scaled = Autoencoder(AutoencoderConfig(**{**vars(model.config), "latent_scale": round(latents.std().item(), 4)}))
    scaled.load_state_dict(model.state_dict())
    return scaled
