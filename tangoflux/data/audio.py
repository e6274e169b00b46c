"""Reading audio files."""

from __future__ import annotations

import io
import math
import os
import re
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import soundfile
from numpy.typing import NDArray
from pyarrow.fs import FileSystem

from tangoflux.data.containers import flac, id3, mpeg, ogg, riff
from tangoflux.data.containers.rebuilt import RebuiltFile
from tangoflux.errors import DataError
from tangoflux.sampling_params import MIN_DURATION_S

MIN_SHARE = 0.5
"""A file must have more than this share of what a manifest asks for. Published durations are inexact, but a file that
is much shorter is hardly the one that the caption describes."""

RATES_HZ = (1_000, 1_000_000)

MAX_SAMPLES = 2**25
"""Most samples that are read at once, all channels together: 30 s of two channels at 559 kHz."""

REMOTE_BUFFER = 2**20
"""Bytes of a read from an object store, where each is a request."""

MAX_PEAK = 100
"""Floats above this (40 dB above full scale) are no loud audio, but integers that were not scaled, or damage."""

SILENT_PEAK = 1e-4
"""Audio that stays below this (-80 dBFS) is silent."""

RIFF_FORMATS = ("WAV", "WAVEX", "RF64")
"""Their sizes have been checked before libsndfile opens them."""

LENGTH_NOTE = re.compile(r"^ *(?:SSND|BODY|Data Size|riff|data) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
"""libsndfile corrects the length of a truncated AIFF, AU, CAF, IFF or W64 file, and reports that only in its log."""

CUT_NOTE = "Seems to be a truncated file."
"""The same for VOC."""


class AudioError(DataError):
    """Audio cannot be used; ``reason`` is a short category, the same for all files with the same problem."""

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


@contextmanager
def open_audio(location: str | Path, content: bytes | None = None) -> Generator[Any]:
    """A ``soundfile.SoundFile`` of a local file, or of a URI (file, s3, gs, hdfs) in any format of libsndfile.

    Its ``frames`` are those that there are, also if the file was written into a pipe and its header does not know.

    Args:
        content: the file's bytes, if ``location`` only names them.

    Raises:
        AudioError: it is missing, unreadable, truncated or of an extreme rate; also raised while it is read.
    """
    opened: Any = None
    try:
        with _binary(str(location), content) as file, _opened(file) as opened:
            _check(opened, location)
            yield opened
    except FileNotFoundError:
        raise AudioError(f"{location} cannot be read as audio: there is no such file", "missing") from None
    except EOFError:
        raise AudioError(f"{location} ends before its header says, or its stream does", "truncated") from None
    except (OSError, soundfile.SoundFileError, pa.ArrowException) as error:
        if opened is not None:
            raise AudioError(f"{location} is damaged, or ends before its header says", "truncated") from None
        text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
        raise AudioError(f"{location} cannot be read as audio: {text}") from None


def audio_duration_s(file: Path) -> float:
    """Seconds of an audio file; it is not decoded.

    Raises:
        AudioError: see ``open_audio``; or it is empty.
    """
    with open_audio(file) as source:
        return source.frames / source.samplerate


def read_audio(file: Path, max_duration_s: float) -> tuple[NDArray[np.float32], int]:
    """The first ``max_duration_s`` seconds of an audio file in any format of libsndfile (WAV, FLAC, OGG, MP3, ...).

    Returns:
        (channels, samples) in [-1, 1], and its sample rate.

    Raises:
        AudioError: see ``open_audio``; or it is empty, or has samples that are not finite or far from [-1, 1].
    """
    with open_audio(file) as source:
        count = min(source.frames, math.ceil(max_duration_s * source.samplerate))
        return _read(source, count, file), source.samplerate


def read_excerpt(
    location: str | Path,
    start_s: float,
    duration_s: float | None,
    max_duration_s: float,
    content: bytes | None = None,
) -> tuple[NDArray[np.float32], int, float]:
    """A part of an audio file, cut to its middle ``max_duration_s`` seconds if it is longer.

    If the file ends within the part, what there is of it is read.

    Args:
        location: a path or a URI.
        start_s, duration_s: the part, in seconds; a duration of None extends to the end.
        content: the file's bytes, if ``location`` only names them.

    Returns:
        (channels, samples) in [-1, 1], its sample rate, and its start in the file in seconds.

    Raises:
        AudioError: see ``read_audio``; or the file has at most ``MIN_SHARE`` of the part, or the excerpt is silent.
    """
    with open_audio(location, content) as source:
        rate = source.samplerate
        first, count = _part(source, start_s, duration_s, location)
        most = round(max_duration_s * rate)
        first, count = first + max(0, count - most) // 2, min(count, most)
        if count < MIN_DURATION_S * rate:
            raise AudioError(
                f"{location}: a clip of {count / rate:g} s is shorter than {MIN_DURATION_S:g} s", "too short"
            )
        _skip(source, first)
        waveform = _read(source, count, location)
    if _peak(waveform) < SILENT_PEAK:
        raise AudioError(f"{location} is silent from {first / rate:g} s to {(first + count) / rate:g} s", "silent")
    return waveform, rate, first / rate


def _binary(location: str, content: bytes | None) -> BinaryIO:
    """The open file, on a disk, in another file system or in memory."""
    if content is not None:
        file: Any = io.BytesIO(content)
    elif "://" in location:
        system, path = FileSystem.from_uri(location)
        file = io.BufferedReader(system.open_input_file(path), REMOTE_BUFFER)
    else:
        # Not a pipe, which would be waited for.
        if not stat.S_ISREG(os.stat(location).st_mode):
            raise OSError("it is not a file")
        file = open(location, "rb")  # noqa: SIM115
    if not file.read(1):
        file.close()
        raise AudioError(f"{location} cannot be read as audio: the file is empty", "empty")
    return file


def _opened(file: BinaryIO) -> soundfile.SoundFile:
    """The file, or if its header has no or a wrong length, the file with the right one.

    A file on a disk is passed by its number, since soundfile takes what is named .raw or .vox for samples without a
    header.

    Raises:
        EOFError: the file was cut off.
    """
    if start := id3.end_of_tags(file):
        file = cast(BinaryIO, RebuiltFile(b"", file, start))
    rebuilt = _rebuilt(file)
    if rebuilt is None and isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO):
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        return soundfile.SoundFile(file.fileno(), closefd=False)
    source: Any = rebuilt or RebuiltFile(b"", file, 0)
    return soundfile.SoundFile(source, closefd=False)


def _rebuilt(file: BinaryIO) -> RebuiltFile | None:
    file.seek(0)
    magic = file.read(4)
    if magic in riff.MAGICS:
        return riff.rebuilt_riff(file)
    if magic == flac.MAGIC:
        return flac.rebuilt_flac(file)
    if magic == ogg.MAGIC:
        ogg.check_ogg(file)
        return None
    return mpeg.rebuilt_mpeg(file)


def _check(source: Any, location: str | Path) -> None:
    """Refuses extreme headers, empty files, and files that end too early.

    Raises:
        EOFError: the file was cut off.
    """
    least, most = RATES_HZ
    if not least <= source.samplerate <= most:
        raise AudioError(
            f"{location} has a sample rate of {source.samplerate:,} Hz; it must be from {least:,} to {most:,}",
            "extreme rate",
        )
    if source.format not in RIFF_FORMATS and _is_cut(source.extra_info):
        raise EOFError
    if source.frames < 1:
        raise AudioError(f"{location} contains no audio", "empty")
    if source.format == "FLAC":
        source.seek(source.frames - 1)
        if len(source.read(1)) < 1:
            raise EOFError
        source.seek(0)


def _is_cut(log: str) -> bool:
    return CUT_NOTE in log or any(int(promised) > int(there) for promised, there in LENGTH_NOTE.findall(log))


def _part(source: Any, start_s: float, duration_s: float | None, location: str | Path) -> tuple[int, int]:
    """First sample and number of samples of a part."""
    rate, length_s = source.samplerate, source.frames / source.samplerate
    first = round(min(start_s, length_s) * rate)
    available = source.frames - first
    wanted_s = available / rate if duration_s is None else duration_s
    if available < 1 or available <= MIN_SHARE * wanted_s * rate:
        end_s = start_s + (duration_s or 0)
        raise AudioError(
            f"{location} is {length_s:.2f} s long, the manifest asks for audio up to {end_s:g} s", "too short"
        )
    return first, max(1, min(available, round(wanted_s * rate)))


def _skip(source: Any, count: int) -> None:
    """Moves to a sample; some codings, such as GSM, can only be read from their beginning on."""
    if source.seekable():
        source.seek(count)
    else:
        for _ in source.blocks(source.samplerate, frames=count, dtype="float32"):
            pass


def _read(source: Any, count: int, location: str | Path) -> NDArray[np.float32]:
    """The next ``count`` samples, (channels, count)."""
    if count * source.channels > MAX_SAMPLES:
        raise AudioError(
            f"{location} has {source.channels} channels at {source.samplerate:,} Hz; {count / source.samplerate:g} s "
            f"of that are more than {MAX_SAMPLES:,} samples",
            "extreme size",
        )
    waveform = np.ascontiguousarray(source.read(count, dtype="float32", always_2d=True).T)
    if waveform.shape[1] < count:
        raise EOFError
    peak = _peak(waveform)
    if not math.isfinite(peak):
        raise AudioError(f"{location} contains samples that are not finite", "not finite")
    if peak > MAX_PEAK:
        raise AudioError(f"{location} contains samples up to {peak:g}; scale them to [-1, 1]", "not scaled")
    return waveform


def _peak(waveform: NDArray[np.float32]) -> float:
    """The largest absolute value; NaN if there is one."""
    return float(max(waveform.max(), -waveform.min()))
