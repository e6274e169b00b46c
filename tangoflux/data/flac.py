"""Waveforms as FLAC files in memory. Without torch, which processes that only store audio never import."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray


def encode_flac(waveform: NDArray[np.float32], sample_rate_hz: int) -> bytes:
    """A (channels, samples) waveform as a 16-bit FLAC file.

    What is beyond [-1, 1] is clipped, and what is not finite becomes silence.
    """
    audio = np.clip(np.nan_to_num(waveform, nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0)
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.T, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_flac(content: bytes) -> tuple[NDArray[np.float32], int]:
    """The (channels, samples) waveform of a FLAC file, in [-1, 1], and its sample rate in Hz."""
    samples: Any
    samples, sample_rate_hz = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    return samples.T, sample_rate_hz
