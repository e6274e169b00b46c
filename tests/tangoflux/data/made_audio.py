"""Audio files made by code: by FFmpeg, into a file or a pipe, and WAV files with any header."""

from __future__ import annotations

import io
import struct
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from tangoflux.data.audio import open_audio

UNKNOWN = 0xFFFF_FFFF


class Pipe(bytearray):
    """Takes bytes and cannot be seeked."""

    def write(self, data: bytes) -> int:
        self.extend(data)
        return len(data)


def noise(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """(channels, samples), of which the first half is silence."""
    waveform = np.random.default_rng(seed).normal(0, 0.1, (channels, round(seconds * rate)))
    waveform[:, : waveform.shape[1] // 2] = 0
    return waveform.astype(np.float32)


def encoded(
    format: str,
    codec: str,
    waveform: NDArray[np.float32],
    rate: int,
    *,
    to_pipe: bool = False,
    container: dict[str, str] | None = None,
    encoder: dict[str, str] | None = None,
) -> bytes:
    """A file of FFmpeg."""
    file: Any = Pipe() if to_pipe else io.BytesIO()
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(waveform)]
    with av.open(file, "w", format=format, options=container or {}) as output:
        stream: Any = output.add_stream(codec, rate=rate, options=encoder or {})
        stream.layout = layout
        samples = (waveform * 32767).astype("<i2").T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.codec_context.codec.audio_formats[0].name, layout, rate)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            output.mux(stream.encode(part))
    return bytes(file) if to_pipe else file.getvalue()


def mp3(seconds: float, rate: int = 44_100, *, xing: bool = True, id3: bool = False) -> bytes:
    """An MP3 file of variable bit rate."""
    container = {"write_xing": str(int(xing)), "id3v2_version": "3" if id3 else "0"}
    quality = {"flags": "+qscale", "global_quality": "236"}
    return encoded("mp3", "libmp3lame", noise(seconds, rate), rate, container=container, encoder=quality)


def written(format: str, seconds: float = 1.0, rate: int = 16_000, channels: int = 1) -> bytes:
    """A file of libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, noise(seconds, rate, channels).T, rate, format=format)
    return file.getvalue()


def ffmpeg_samples(content: bytes) -> int:
    """The number of samples that FFmpeg decodes."""
    with av.open(io.BytesIO(content), "r") as source:
        return sum(frame.samples for frame in source.decode(audio=0))


def libsndfile_samples(content: bytes) -> int:
    """The number of samples that we read, after it was checked that the file's length is that number."""
    with open_audio("made", content) as source:
        samples = len(source.read(source.frames))
        assert samples == source.frames
        return samples


def wav(
    data: int | None = None,
    riff: int | None = None,
    *,
    samples: int = 1000,
    rate: int = 16_000,
    channels: int = 1,
    before: bytes = b"",
    behind: bytes = b"",
    magic: bytes = b"RIFF",
) -> bytes:
    """A 16-bit WAV file whose header says ``riff`` and ``data`` bytes (default: what there is)."""
    order = ">" if magic == b"RIFX" else "<"
    pcm = (noise(1.0, samples)[0] * 32767).astype(f"{order}i2").tobytes()
    layout = struct.pack(f"{order}HHIIHH", 1, channels, rate, 0, 2 * channels, 16)
    body = b"WAVE" + before + struct.pack(f"{order}4sI", b"fmt ", len(layout)) + layout
    body += struct.pack(f"{order}4sI", b"data", len(pcm) if data is None else data) + pcm + behind
    return magic + struct.pack(f"{order}I", len(body) if riff is None else riff) + body


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a RIFF file."""
    return name + struct.pack("<I", len(content)) + content
