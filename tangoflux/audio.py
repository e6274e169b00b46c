"""Audio files, and waveforms brought into the form that a codec takes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio.functional as AF
from numpy.typing import NDArray
from torch import Tensor

from tangoflux.errors import DataError


def audio_duration_s(file: Path) -> float:
    """Seconds of an audio file, from its header.

    Raises:
        DataError: it cannot be read, is no audio, or holds none.
    """
    try:
        info: Any = soundfile.info(str(file))
    except (OSError, soundfile.LibsndfileError) as error:
        raise _unreadable(file, error) from None
    if info.frames < 1:
        raise DataError(f"{file} holds no audio")
    return info.frames / info.samplerate


def read_audio(file: Path, max_duration_s: float) -> tuple[NDArray[np.float32], int]:
    """The first ``max_duration_s`` seconds of an audio file in any format of libsndfile (WAV, FLAC, OGG, MP3, ...).

    Returns:
        (channels, samples) in [-1, 1], and its sample rate.

    Raises:
        DataError: it cannot be read, is no audio, holds none, or numbers that are not finite.
    """
    try:
        with soundfile.SoundFile(str(file)) as source:
            rate = source.samplerate
            waveform = source.read(math.ceil(max_duration_s * rate), dtype="float32", always_2d=True).T
    except (OSError, soundfile.LibsndfileError) as error:
        raise _unreadable(file, error) from None
    if not waveform.size:
        raise DataError(f"{file} holds no audio")
    if not np.isfinite(waveform).all():
        raise DataError(f"{file} holds samples that are not finite")
    return np.ascontiguousarray(waveform, dtype=np.float32), rate


def fit_waveform(
    waveform: NDArray[np.float32], sample_rate_hz: int, to_rate_hz: int, channels: int, samples: int
) -> Tensor:
    """Brings a waveform into a form that is the same for all.

    It is resampled; its channels are averaged or repeated unless they are as many as wanted; then it is cut, or
    followed by silence.

    Args:
        waveform: (any channels, any samples) at ``sample_rate_hz``.

    Returns:
        (channels, samples) at ``to_rate_hz``.
    """
    audio = torch.from_numpy(waveform)
    if len(audio) != channels:
        audio = audio.mean(dim=0, keepdim=True).expand(channels, -1)
    if sample_rate_hz != to_rate_hz:
        audio = AF.resample(audio, sample_rate_hz, to_rate_hz)
    audio = audio[:, :samples]
    return torch.nn.functional.pad(audio, (0, samples - audio.shape[1]))


def _unreadable(file: Path, error: Exception) -> DataError:
    reason = "there is no such file" if not file.exists() else str(error).removeprefix(f"Error opening '{file}': ")
    return DataError(f"{file} cannot be read as audio: {reason}")
