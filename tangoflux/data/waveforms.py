"""Waveforms as a codec takes them: rate, channels and length."""

from __future__ import annotations

import math

import numpy as np
import soxr
import torch
import torchaudio.functional as AF
from numpy.typing import NDArray
from torch import Tensor

from tangoflux.model.autoencoder import AutoencoderConfig

MAX_KERNEL = 2**21
"""Most numbers in torchaudio's resampling kernel, which has about as many as the product of the two rates, each divided
by their greatest common divisor: 23,520 from 48,000 to 44,100 Hz, 2 * 10^9 from 44,099 Hz."""


def fit_waveform(
    waveform: NDArray[np.float32], sample_rate_hz: int, to_rate_hz: int, channels: int, samples: int
) -> Tensor:
    """Converts a waveform to a given rate, number of channels and length.

    It is resampled; if the number of channels differs, they are averaged and repeated; then it is cut or padded with
    silence.

    Args:
        waveform: (any channels, any samples) at ``sample_rate_hz``.

    Returns:
        (channels, samples) at ``to_rate_hz``.
    """
    audio = torch.from_numpy(waveform)
    if len(audio) != channels:
        audio = audio.mean(dim=0, keepdim=True).expand(channels, -1)
    if sample_rate_hz != to_rate_hz:
        audio = resample(audio, sample_rate_hz, to_rate_hz)
    audio = audio[:, :samples]
    return torch.nn.functional.pad(audio, (0, samples - audio.shape[1]))


def fill_frames(
    waveform: NDArray[np.float32], sample_rate_hz: int, codec: AutoencoderConfig, duration_s: float, num_frames: int
) -> Tensor:
    """A waveform as input of the codec: its first ``duration_s`` seconds, then silence up to the last frame.

    Returns:
        (audio_channels, num_frames * hop), see ``fit_waveform``.
    """
    samples = num_frames * codec.hop
    used = min(samples, round(duration_s * codec.sampling_rate))
    audio = fit_waveform(waveform, sample_rate_hz, codec.sampling_rate, codec.audio_channels, used)
    return torch.nn.functional.pad(audio, (0, samples - used))


def resample(audio: Tensor, sample_rate_hz: int, to_rate_hz: int) -> Tensor:
    """Audio (channels, samples) at another sample rate: by torchaudio, or by soxr where that needs too much memory."""
    common = math.gcd(sample_rate_hz, to_rate_hz)
    if sample_rate_hz * to_rate_hz <= MAX_KERNEL * common**2:
        return AF.resample(audio, sample_rate_hz, to_rate_hz)
    return torch.from_numpy(np.ascontiguousarray(soxr.resample(audio.numpy().T, sample_rate_hz, to_rate_hz).T))
