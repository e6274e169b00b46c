"""The log-mel features of transformers' `ClapFeatureExtractor` in torch: batched and without random cropping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torchaudio.functional as AF
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

Padding = Literal["pad", "repeatpad", "repeat"]
MelScale = Literal["slaney", "htk"]

_FLOOR = 1e-10  # the extractor's smallest mel power; -100 dB


@dataclass(frozen=True)
class LogMelConfig:
    """The analysis; lengths in samples, frequencies in Hz. `padding` fills up audio shorter than `max_samples`.

    The bands are Slaney's of unit area, as in the extractor's "rand_trunc" mode, or HTK's of unit height, as in its
    "fusion" mode.
    """

    sample_rate_hz: int = 16_000
    n_fft: int = 1024
    hop: int = 256
    n_mels: int = 64
    min_hz: float = 0.0
    max_hz: float = 8_000.0
    max_samples: int = 64_000
    padding: Padding = "pad"
    mel_scale: MelScale = "slaney"


def with_time_code(features: Tensor, decibels: float) -> Tensor:
    """Log-mel frames (B, frames, mels) and a code of the time, from -`decibels` at the start to +`decibels` at the end.

    Its sign alternates from band to band, which no sound does. A network whose windows have no absolute positions, as
    HTSAT, can tell earlier from later by it.
    """
    _, frames, mels = features.shape
    ramp = torch.linspace(-decibels, decibels, frames, dtype=features.dtype, device=features.device)
    return features + ramp[:, None] * (1 - 2 * (torch.arange(mels, device=features.device) % 2))


class LogMel(nn.Module):
    """Waveforms of `max_samples` to log-mel frames in dB, as the extractor computes them."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        filters = mel_filter_bank(
            config.n_fft // 2 + 1,
            config.n_mels,
            config.min_hz,
            config.max_hz,
            config.sample_rate_hz,
            norm="slaney" if config.mel_scale == "slaney" else None,
            mel_scale=config.mel_scale,
        )
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32), persistent=False)

    def prepare(self, waveform: NDArray[np.float32], sample_rate_hz: int) -> Tensor:
        """A waveform (samples,) or (channels, samples) as the input (max_samples,): mono, resampled and fitted."""
        mono = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
        if mono.ndim == 2:
            mono = mono.mean(0)
        if sample_rate_hz != self.config.sample_rate_hz and mono.numel():
            mono = AF.resample(mono, sample_rate_hz, self.config.sample_rate_hz)
        return self.fit(mono)

    def fit(self, waveform: Tensor) -> Tensor:
        """Cut or pad a mono waveform (samples,) at its end to `max_samples`; an empty one becomes silence."""
        longest, samples = self.config.max_samples, waveform.shape[-1]
        if samples >= longest:
            return waveform[:longest]
        if samples and self.config.padding != "pad":
            repeats = longest // samples
            waveform = waveform.repeat(repeats + 1 if self.config.padding == "repeat" else repeats)[:longest]
        return F.pad(waveform, (0, longest - waveform.shape[-1]))

    def forward(self, waveforms: Tensor) -> Tensor:
        """(B, max_samples) to (B, frames, n_mels) in dB, at least -100."""
        spectrum = torch.stft(
            waveforms, self.config.n_fft, self.config.hop, window=self.window, center=True, return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return 10.0 * (power.transpose(1, 2) @ self.filters).clamp(min=_FLOOR).log10()
