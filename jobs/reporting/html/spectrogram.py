"""Mel spectrograms as PNG: time runs to the right, pitch up; brighter is louder."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchaudio.transforms import MelSpectrogram

FLOOR_DB, CEILING_DB = -80.0, -12.0
"""Levels relative to a full-scale sine that are darkest and brightest, the same in every picture."""

WINDOW_S = 0.032

PADDING = 4
"""Zero padding of each window, as a factor: without it the lowest mel bands would fall between two frequency bins."""

_COLOURS = [(13, 11, 20), (43, 24, 62), (104, 34, 88), (180, 52, 72), (232, 104, 48), (250, 180, 84), (255, 244, 214)]
"""From the darkest to the brightest, equally spaced."""


def spectrogram_png(
    waveform: npt.NDArray[Any], sample_rate_hz: int, top_hz: float, width: int = 288, height: int = 96
) -> bytes:
    """A palette PNG of ``width`` x ``height`` pixels of a ``(samples,)`` waveform, from 0 Hz to ``top_hz``."""
    power = _mel_power(waveform, sample_rate_hz, top_hz, width, height)
    level = (10 * np.log10(power + 1e-12) - FLOOR_DB) / (CEILING_DB - FLOOR_DB)
    image = Image.fromarray(np.round(np.clip(level, 0, 1) * 255).astype(np.uint8)[::-1])
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    image.putpalette(_palette())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _mel_power(
    waveform: npt.NDArray[Any], sample_rate_hz: int, top_hz: float, columns: int, bands: int
) -> npt.NDArray[np.float32]:
    """(bands, at least columns) power, 1 for a full-scale sine."""
    window = 2 ** round(np.log2(WINDOW_S * sample_rate_hz))
    transform = MelSpectrogram(
        sample_rate_hz,
        n_fft=PADDING * window,
        win_length=window,
        hop_length=max(1, len(waveform) // columns),
        f_max=top_hz,
        n_mels=bands,
        pad_mode="constant",
    )
    audio = waveform.astype(np.float32) if len(waveform) else np.zeros(1, np.float32)
    power = transform(torch.from_numpy(audio))
    return (power * (2 / torch.hann_window(window).sum()) ** 2 / PADDING).numpy()


def _palette() -> list[int]:
    positions = np.linspace(0, len(_COLOURS) - 1, 256)
    channels = [np.interp(positions, range(len(_COLOURS)), channel) for channel in zip(*_COLOURS, strict=True)]
    return np.stack(channels, axis=1).round().astype(int).flatten().tolist()
