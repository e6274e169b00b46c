"""Audio cards of a report: the same prompts before and after training, with sound and spectrogram."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import soundfile

from actors.storage.samples import Sample
from jobs.reporting.html.spectrogram import spectrogram_png

MOST_PROMPTS = 12
BUDGET_BYTES = 10_000_000
"""Limit for all audio of a report, before base64 turns three bytes into four."""


@dataclass(frozen=True)
class Clip:
    """A sample with its audio and its spectrogram as data URIs."""

    sample: Sample
    audio: str
    picture: str
    seconds: float


@dataclass(frozen=True)
class Card:
    """A prompt with the sample of the base policy, if any, and those of the later policies."""

    prompt: str
    before: Clip | None
    after: Sequence[Clip]


def audio_cards(
    directory: Path, samples: Sequence[Sample], budget_bytes: int = BUDGET_BYTES
) -> tuple[list[Card], float]:
    """Cards of up to a dozen prompts in the run's order, and the frequency in Hz at the top of every spectrogram.

    If FLAC of every iteration exceeds the budget, only the first and the last iteration are included; if these exceed
    it too, they are converted to MP3.
    """
    samples = [sample for sample in samples if (directory / sample.file).exists()]
    prompts = list(dict.fromkeys(sample.prompt_id for sample in samples))[:MOST_PROMPTS]
    samples = [sample for sample in samples if sample.prompt_id in prompts]
    if _bytes(directory, samples) > budget_bytes:
        samples = _first_and_last(samples)
    as_mp3 = _bytes(directory, samples) > budget_bytes
    top_hz = min(max((_rate(directory / sample.file) / 2 for sample in samples), default=8000.0), 16000.0)
    clips = [_clip(directory, sample, top_hz, as_mp3) for sample in samples]
    return [_card([clip for clip in clips if clip.sample.prompt_id == prompt]) for prompt in prompts], top_hz


def _card(clips: Sequence[Clip]) -> Card:
    return Card(
        prompt=clips[-1].sample.prompt,
        before=next((clip for clip in clips if clip.sample.iteration == 0), None),
        after=[clip for clip in clips if clip.sample.iteration > 0],
    )


def _first_and_last(samples: Sequence[Sample]) -> list[Sample]:
    last = max(sample.iteration for sample in samples)
    return [sample for sample in samples if sample.iteration in (0, last)]


def _clip(directory: Path, sample: Sample, top_hz: float, as_mp3: bool) -> Clip:
    path = directory / sample.file
    waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
    audio = _data_uri("audio/mpeg", _mp3(waveform, rate)) if as_mp3 else _data_uri("audio/flac", path.read_bytes())
    picture = _data_uri("image/png", spectrogram_png(waveform.mean(axis=1), rate, top_hz))
    return Clip(sample, audio, picture, len(waveform) / rate)


def _mp3(waveform: npt.NDArray[Any], rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform[:, :2], rate, format="MP3", subtype="MPEG_LAYER_III")
    return buffer.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _bytes(directory: Path, samples: Sequence[Sample]) -> int:
    return sum((directory / sample.file).stat().st_size for sample in samples)


def _rate(path: Path) -> int:
    return soundfile.info(path).samplerate
