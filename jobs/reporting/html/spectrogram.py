"""A picture of a sound: time runs to the right, pitch goes up on the mel scale, brighter is louder."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

FLOOR_DB, CEILING_DB = -80.0, -12.0
"""Loudness, relative to a full-scale sine, that is darkest and brightest: the same in every picture."""

_PALETTE_STOPS = np.array(
    [(13, 11, 20), (43, 24, 62), (104, 34, 88), (180, 52, 72), (232, 104, 48), (250, 180, 84), (255, 244, 214)]
)


def spectrogram_png(
    waveform: npt.NDArray[Any], sample_rate_hz: int, top_hz: float, width: int = 288, height: int = 96
) -> bytes:
    """A palette PNG of ``width`` x ``height`` pixels of a ``(samples,)`` waveform, from 0 Hz to ``top_hz``."""
    power = _power(waveform, sample_rate_hz, width)
    bands = _mel_bands(power, sample_rate_hz, top_hz, height)
    level = (10 * np.log10(bands + 1e-12) - FLOOR_DB) / (CEILING_DB - FLOOR_DB)
    return _png(np.round(np.clip(level, 0, 1) * 255).astype(np.uint8)[::-1])


def _power(waveform: npt.NDArray[Any], sample_rate_hz: int, columns: int) -> npt.NDArray[np.float64]:
    """(window // 2 + 1, columns) power spectra of about 32 ms each, 1 for a full-scale sine."""
    window = 2 ** round(np.log2(0.032 * sample_rate_hz))
    padded = np.pad(waveform.astype(np.float64), window // 2)
    starts = np.linspace(0, max(len(padded) - window, 0), columns).astype(int)
    padded = np.pad(padded, (0, max(0, window - len(padded))))
    shape = np.hanning(window)
    frames = np.stack([padded[start : start + window] * shape for start in starts])
    return np.square(np.abs(np.fft.rfft(frames, axis=1)) * 2 / shape.sum()).T


def _mel_bands(
    power: npt.NDArray[np.float64], sample_rate_hz: int, top_hz: float, count: int
) -> npt.NDArray[np.float64]:
    """(count, columns): the power between neighbouring edges that are equally far apart in mel, lowest first."""
    bin_hz = sample_rate_hz / 2 / (power.shape[0] - 1)
    edges_hz = 700 * (10 ** (np.linspace(0, np.log10(1 + top_hz / 700), count + 1)) - 1)
    total = np.vstack([np.zeros((1, power.shape[1])), np.cumsum(power, axis=0)])
    places = np.clip(edges_hz / bin_hz + 0.5, 0, power.shape[0])
    below = np.floor(places).astype(int)
    part = (places - below)[:, None]
    at_edges = total[below] * (1 - part) + total[np.minimum(below + 1, power.shape[0])] * part
    return np.diff(at_edges, axis=0)


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """An 8-bit PNG of (height, width) indices into the palette."""
    height, width = pixels.shape
    positions = np.linspace(0, len(_PALETTE_STOPS) - 1, 256)
    palette = np.stack([np.interp(positions, range(len(_PALETTE_STOPS)), stop) for stop in _PALETTE_STOPS.T], axis=1)
    rows = np.hstack([np.zeros((height, 1), np.uint8), pixels]).tobytes()
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            (b"PLTE", palette.round().astype(np.uint8).tobytes()),
            (b"IDAT", zlib.compress(rows, 9)),
            (b"IEND", b""),
        )
    )
