"""Reading audio files, and fitting waveforms to a codec's input."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
import torch
import torchaudio.functional as AF
from numpy.typing import NDArray
from pyarrow.fs import FileSystem, LocalFileSystem
from torch import Tensor

from tangoflux.errors import DataError
from tangoflux.model.autoencoder import AutoencoderConfig

TOLERANCE_S = 0.25
"""How much shorter a file may be than its manifest says: lengths are rounded, and those of MP3 files are inexact."""

MAX_OGG_PAGE = 27 + 255 + 255 * 255

SILENT_PEAK = 1e-4
"""Audio that stays below this (-80 dBFS) is silent."""


class AudioError(DataError):
    """Audio cannot be used; ``reason`` is a short category, the same for all files with the same problem."""

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


@contextmanager
def open_audio(location: str | Path) -> Generator[Any]:
    """A ``soundfile.SoundFile`` of a local file, or of a URI (file, s3, gs, hdfs) in any format of libsndfile.

    Raises:
        AudioError: it is missing, unreadable or truncated; also raised while it is read.
    """
    opened: Any = None
    try:
        with _readable(str(location)) as file, soundfile.SoundFile(file) as opened:
            # libsndfile accepts any page of an Ogg file as its last.
            if opened.format == "OGG" and not _is_end_of_ogg(_tail(str(location))):
                raise AudioError(f"{location} ends before its stream does", "truncated")
            yield opened
    except FileNotFoundError:
        raise AudioError(f"{location} cannot be read as audio: there is no such file", "missing") from None
    except (OSError, soundfile.LibsndfileError, pa.ArrowInvalid) as error:
        if opened is not None:
            raise AudioError(f"{location} is damaged, or ends before its header says", "truncated") from None
        text = str(error).removeprefix(f"Error opening '{location}': ")
        raise AudioError(f"{location} cannot be read as audio: {text}") from None


def audio_duration_s(file: Path) -> float:
    """Seconds of an audio file, from its header.

    Raises:
        AudioError: it cannot be read, is not audio, or is empty.
    """
    with open_audio(file) as source:
        if source.frames < 1:
            raise AudioError(f"{file} contains no audio", "empty")
        return source.frames / source.samplerate


def read_audio(file: Path, max_duration_s: float) -> tuple[NDArray[np.float32], int]:
    """The first ``max_duration_s`` seconds of an audio file in any format of libsndfile (WAV, FLAC, OGG, MP3, ...).

    Returns:
        (channels, samples) in [-1, 1], and its sample rate.

    Raises:
        AudioError: it cannot be read, is not audio, is empty, or has samples that are not finite.
    """
    with open_audio(file) as source:
        return _read(source, math.ceil(max_duration_s * source.samplerate), file), source.samplerate


def read_excerpt(
    location: str | Path, start_s: float, duration_s: float | None, max_duration_s: float
) -> tuple[NDArray[np.float32], int, float]:
    """A part of an audio file, cut to its middle ``max_duration_s`` seconds if it is longer.

    Args:
        location: a path or a URI.
        start_s, duration_s: the part, in seconds; a duration of None extends to the end.

    Returns:
        (channels, samples) in [-1, 1], its sample rate, and its start in the file in seconds.

    Raises:
        AudioError: see ``read_audio``; or the file ends before the part does, or the excerpt is silent.
    """
    with open_audio(location) as source:
        rate = source.samplerate
        first, count = _part(source, start_s, duration_s, location)
        most = round(max_duration_s * rate)
        first, count = first + max(0, count - most) // 2, min(count, most)
        source.seek(first)
        waveform = _read(source, count, location)
        if waveform.shape[1] < count:
            raise AudioError(f"{location} ends before its header says", "truncated")
    if np.abs(waveform).max() < SILENT_PEAK:
        raise AudioError(f"{location} is silent from {first / rate:g} s to {(first + count) / rate:g} s", "silent")
    return waveform, rate, first / rate


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
        audio = AF.resample(audio, sample_rate_hz, to_rate_hz)
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


def _readable(location: str) -> AbstractContextManager[Any]:
    """A path, or an open file of another file system, for ``soundfile``."""
    if "://" in location:
        system, path = FileSystem.from_uri(location)
        return system.open_input_file(path)
    if not Path(location).stat().st_size:
        raise AudioError(f"{location} cannot be read as audio: the file is empty", "empty")
    return nullcontext(location)


def _tail(location: str) -> bytes:
    system, path = FileSystem.from_uri(location) if "://" in location else (LocalFileSystem(), location)
    with system.open_input_file(path) as file:
        file.seek(max(0, file.size() - MAX_OGG_PAGE))
        return file.read()


def _is_end_of_ogg(tail: bytes) -> bool:
    """Whether the last page (RFC 3533, section 6) is marked as the stream's last and ends at the end of the file."""
    start = tail.rfind(b"OggS")
    head, lengths = tail[start : start + 27], b""
    if start >= 0 and len(head) == 27:
        lengths = tail[start + 27 : start + 27 + head[26]]
    return bool(lengths) and bool(head[5] & 4) and start + 27 + head[26] + sum(lengths) == len(tail)


def _part(source: Any, start_s: float, duration_s: float | None, location: str | Path) -> tuple[int, int]:
    """First sample and number of samples of a part."""
    # libsndfile corrects the length of a truncated WAV file, and reports that only in its log.
    if "(should be" in source.extra_info:
        raise AudioError(f"{location} ends before its header says", "truncated")
    if source.frames < 1:
        raise AudioError(f"{location} contains no audio", "empty")
    first, length_s = round(start_s * source.samplerate), source.frames / source.samplerate
    available = source.frames - first
    wanted = available if duration_s is None else round(duration_s * source.samplerate)
    if available < 1 or wanted - available > TOLERANCE_S * source.samplerate:
        end_s = start_s + (duration_s or 0)
        raise AudioError(
            f"{location} is {length_s:.2f} s long, the manifest asks for audio up to {end_s:.2f} s", "truncated"
        )
    return first, max(1, min(wanted, available))


def _read(source: Any, count: int, location: str | Path) -> NDArray[np.float32]:
    waveform = source.read(count, dtype="float32", always_2d=True).T
    if not waveform.size:
        raise AudioError(f"{location} contains no audio", "empty")
    if not np.isfinite(waveform).all():
        raise AudioError(f"{location} contains samples that are not finite", "not finite")
    return np.ascontiguousarray(waveform, dtype=np.float32)
