"""Encodes waveforms as audio files in memory."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio.functional as AF
from numpy.typing import NDArray

from serve.errors import invalid
from serve.schemas import AudioFormat

MEDIA_TYPES: dict[AudioFormat, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
}

OUTPUT_FORMATS = {
    "mp3": (22050, 24000, 44100),
    "pcm": (8000, 16000, 22050, 24000, 32000, 44100, 48000),
    "opus": (48000,),
    "ulaw": (8000,),
    "alaw": (8000,),
}
"""Codecs and sample rates of ElevenLabs' ``output_format``."""

MP3_KBPS = {22050: (160, 8), 24000: (160, 8), 44100: (320, 32)}
"""Largest and smallest constant bit rate; libsndfile's compression level chooses between them."""

RAW_SUBTYPES = {"pcm": "PCM_16", "ulaw": "ULAW", "alaw": "ALAW"}
"""Codecs without a header or a choice of bit rates, by libsndfile's names."""

BLOCK_FRAMES = 1 << 16
"""Frames per call of the encoder."""


def encode(waveform: NDArray[np.float32], sample_rate_hz: int, kind: AudioFormat) -> bytes:
    """(audio_channels, samples) in [-1, 1] as a file; WAV as 16-bit PCM."""
    return _encoded(waveform, sample_rate_hz, format=kind.upper())


@dataclass(frozen=True)
class OutputFormat:
    """ElevenLabs' ``codec_samplerate`` or ``codec_samplerate_kbps``."""

    codec: str
    sample_rate_hz: int
    kbps: int | None

    @classmethod
    def parse(cls, text: str) -> OutputFormat:
        """Parses ``mp3_44100_128``, ``pcm_16000``, ``opus_48000_96``.

        Raises:
            ApiError: the text is not of this form.
        """
        match = re.fullmatch(r"([a-z0-9]{1,8})_(\d{1,5})(?:_(\d{1,3}))?", text)
        if (
            not match
            or int(match[2]) not in OUTPUT_FORMATS.get(match[1], ())
            or (match[1] in RAW_SUBTYPES and match[3])
        ):
            known = ", ".join(f"{codec}_{rate}" for codec, rates in OUTPUT_FORMATS.items() for rate in rates)
            raise invalid(f"output_format must be one of {known}, with _KBPS after mp3 and opus", "output_format")
        return cls(match[1], int(match[2]), int(match[3]) if match[3] else None)

    @property
    def media_type(self) -> str:
        """The HTTP media type."""
        rate = f"rate={self.sample_rate_hz}"
        types = {"mp3": "audio/mpeg", "opus": "audio/ogg", "ulaw": f"audio/pcmu;{rate}", "alaw": f"audio/pcma;{rate}"}
        return types.get(self.codec, f"audio/l16;{rate}")

    def encode(self, waveform: NDArray[np.float32], sample_rate_hz: int) -> bytes:
        """(audio_channels, samples) as a file; PCM, mu-law and A-law are mono, little-endian, without a header."""
        wave = AF.resample(torch.from_numpy(waveform), sample_rate_hz, self.sample_rate_hz).clamp(-1, 1).numpy()
        if self.codec in RAW_SUBTYPES:
            mono = wave.mean(axis=0, keepdims=True)
            return _encoded(mono, self.sample_rate_hz, format="RAW", subtype=RAW_SUBTYPES[self.codec], endian="LITTLE")
        if self.codec == "opus":
            return _encoded(wave, self.sample_rate_hz, format="OGG", subtype="OPUS")
        highest, lowest = MP3_KBPS[self.sample_rate_hz]
        # libsndfile refuses a level of 1, and takes the lowest rate for what is close to it.
        level = min(0.999, (highest - min(max(self.kbps or 128, lowest), highest)) / (highest - lowest))
        return _encoded(wave, self.sample_rate_hz, format="MP3", bitrate_mode="CONSTANT", compression_level=level)


def _encoded(waveform: NDArray[np.float32], sample_rate_hz: int, **options: Any) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", sample_rate_hz, len(waveform), **options) as sound:
        # In blocks: libsndfile's Vorbis encoder keeps the whole input of a call on the thread's stack.
        for start in range(0, waveform.shape[1], BLOCK_FRAMES):
            sound.write(waveform.T[start : start + BLOCK_FRAMES])
    return file.getvalue()
