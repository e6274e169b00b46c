"""The twelve kinds of sound event, each a small synthesiser with its own random pitch, timbre and course."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000

Samples = NDArray[np.float32]
Synthesiser = Callable[[float, np.random.Generator], Samples]

_TABLE_SIZE = 2048


def _time(duration_s: float) -> Samples:
    samples = max(1, round(duration_s * SAMPLE_RATE_HZ))
    return np.arange(samples, dtype=np.float32) / np.float32(SAMPLE_RATE_HZ)


def _ramps(samples: Samples, ramp_s: float) -> Samples:
    """Fade the two ends in and out, so that an event does not begin or end with a click."""
    width = min(max(1, round(ramp_s * SAMPLE_RATE_HZ)), len(samples) // 2)
    if width > 0:
        slope = np.sin(np.linspace(0.0, np.pi / 2, width, dtype=np.float32)) ** 2
        samples[:width] *= slope
        samples[-width:] *= slope[::-1]
    return samples


def _tone(frequency_hz: Samples, harmonics: Sequence[float]) -> Samples:
    """A tone of a moving frequency with the given amplitudes of its harmonics, read from one period's table."""
    spectrum = np.zeros(_TABLE_SIZE // 2 + 1, dtype=np.complex64)
    spectrum[1 : len(harmonics) + 1] = -0.5j * np.asarray(harmonics, dtype=np.float32) * _TABLE_SIZE
    table = np.fft.irfft(spectrum, _TABLE_SIZE).astype(np.float32)
    turns = np.cumsum(frequency_hz.astype(np.float64)) / SAMPLE_RATE_HZ
    return table[((turns % 1.0) * _TABLE_SIZE).astype(np.int64) % _TABLE_SIZE]


def _noise(samples: int, low_hz: float, high_hz: float, rng: np.random.Generator) -> Samples:
    """White noise between two frequencies (soft edges), of unit standard deviation."""
    size = 1 << max(samples - 1, 255).bit_length()
    frequency = np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE_HZ).astype(np.float32)
    gain = 1.0 / (1.0 + (frequency / high_hz) ** 8)
    if low_hz > 0.0:
        gain *= 1.0 - 1.0 / (1.0 + (frequency / low_hz) ** 8)
    spectrum = np.fft.rfft(rng.standard_normal(size, dtype=np.float32)) * gain
    filtered = np.fft.irfft(spectrum, size)[:samples].astype(np.float32)
    return filtered / np.float32(filtered.std() + 1e-9)


def _beep(duration_s: float, rng: np.random.Generator) -> Samples:
    time = _time(duration_s)
    pitch = np.full_like(time, rng.uniform(700.0, 1800.0))
    return _ramps(_tone(pitch, (1.0, rng.uniform(0.0, 0.4), rng.uniform(0.0, 0.3))), 0.01)


def _sweep(duration_s: float, rng: np.random.Generator, rising: bool) -> Samples:
    time = _time(duration_s)
    low, octaves = rng.uniform(350.0, 700.0), rng.uniform(1.7, 2.5)
    course = time / np.float32(duration_s)
    pitch = low * 2.0 ** (octaves * (course if rising else 1.0 - course))
    return _ramps(_tone(pitch.astype(np.float32), (1.0, rng.uniform(0.0, 0.3))), 0.015)


def _rise(duration_s: float, rng: np.random.Generator) -> Samples:
    return _sweep(duration_s, rng, rising=True)


def _fall(duration_s: float, rng: np.random.Generator) -> Samples:
    return _sweep(duration_s, rng, rising=False)


def _siren(duration_s: float, rng: np.random.Generator) -> Samples:
    time = _time(duration_s)
    # At least two swings in the shortest unit: one swing alone would be a rise or a fall.
    rate = max(rng.uniform(3.0, 5.0), 2.0 / duration_s)
    swing = np.sin(2 * np.pi * (rate * time + rng.uniform()))
    pitch = rng.uniform(750.0, 1200.0) * 2.0 ** (rng.uniform(0.45, 0.65) * swing)
    return _ramps(_tone(pitch.astype(np.float32), (1.0, 0.5, rng.uniform(0.2, 0.4))), 0.02)


def _bell(duration_s: float, rng: np.random.Generator) -> Samples:
    time = _time(duration_s)
    pitch = rng.uniform(450.0, 800.0)
    decay = max(0.14, 0.35 * duration_s) * rng.uniform(0.8, 1.2)
    strike = np.zeros_like(time)
    for ratio, amplitude in ((1.0, 0.7), (2.0, 0.6), (2.76, 1.0), (5.4, 0.7), (8.2, 0.45)):
        envelope = np.exp(-time / np.float32(decay / ratio**0.25))
        level = np.float32(amplitude * rng.uniform(0.8, 1.2))
        strike += level * envelope * np.sin(np.float32(2 * np.pi * pitch * ratio) * time)
    return _ramps(strike, 0.002)


def _clicks(duration_s: float, rng: np.random.Generator) -> Samples:
    time = _time(duration_s)
    period = max(1, round(SAMPLE_RATE_HZ / rng.uniform(13.0, 20.0)))
    length = min(period, 200)
    click = rng.standard_normal(length, dtype=np.float32) * np.exp(-np.arange(length, dtype=np.float32) / 35.0)
    train = np.zeros(-(-len(time) // period) * period, dtype=np.float32).reshape(-1, period)
    train[:, :length] = click
    return train.reshape(-1)[: len(time)].copy()


def _hiss(duration_s: float, rng: np.random.Generator) -> Samples:
    samples = len(_time(duration_s))
    return _ramps(_noise(samples, rng.uniform(2800.0, 3800.0), 7600.0, rng), 0.04)


def _rumble(duration_s: float, rng: np.random.Generator) -> Samples:
    time = _time(duration_s)
    swell = 1.0 + 0.35 * np.sin(2 * np.pi * (rng.uniform(3.0, 7.0) * time + rng.uniform()))
    noise = _noise(len(time), 35.0, rng.uniform(170.0, 260.0), rng)
    return _ramps((noise * swell).astype(np.float32), 0.04)


def _bark(duration_s: float, rng: np.random.Generator) -> Samples:
    time = _time(min(duration_s, rng.uniform(0.26, 0.4)))
    course = time / time[-1] if len(time) > 1 else time
    # The arch of pitch and the formant of a mouth that opens and shuts.
    arch = np.sin(np.pi * np.clip(course * 1.05, 0.0, 1.0)).astype(np.float32)
    pitch = rng.uniform(260.0, 380.0) * (0.75 + 0.45 * arch)
    formant = rng.uniform(2.6, 3.6)
    harmonics = np.exp(-(((np.arange(1, 13) - formant) / 2.2) ** 2)) + 0.08
    voice = _tone(pitch.astype(np.float32), tuple(harmonics.tolist()))
    breath = _noise(len(time), 500.0, 2600.0, rng)
    return _ramps(((voice + 0.3 * breath) * (0.15 + arch)).astype(np.float32), 0.02)


def _bird(duration_s: float, rng: np.random.Generator) -> Samples:
    time = _time(duration_s)
    tweets = (rng.uniform(8.0, 11.0) * time) % 1.0
    arch = np.sin(np.pi * np.clip(tweets / 0.7, 0.0, 1.0)).astype(np.float32)
    depth = rng.uniform(0.3, 0.5)
    pitch = rng.uniform(3000.0, 4300.0) * 2.0 ** (depth * arch)
    return _ramps(_tone(pitch.astype(np.float32), (1.0,)) * arch, 0.005)


def _drum(duration_s: float, rng: np.random.Generator) -> Samples:
    time = _time(duration_s)
    decay = np.clip(0.3 * duration_s, 0.09, 0.25) * rng.uniform(0.8, 1.2)
    pitch = rng.uniform(75.0, 120.0) * (1.0 + 1.2 * np.exp(-time / 0.02))
    body = _tone(pitch.astype(np.float32), (1.0, 0.4, 0.15)) * np.exp(-time / np.float32(decay))
    skin = _noise(len(time), 200.0, 2200.0, rng) * np.exp(-time / np.float32(0.025))
    return _ramps((body + 0.6 * skin).astype(np.float32), 0.002)


def _buzz(duration_s: float, rng: np.random.Generator) -> Samples:
    time = _time(duration_s)
    pitch = np.full_like(time, rng.uniform(95.0, 150.0))
    slope = rng.uniform(0.35, 0.6)
    harmonics = np.arange(1, 36, dtype=np.float32) ** -slope
    return _ramps(_tone(pitch, tuple(harmonics.tolist())), 0.015)


_SYNTHESISERS: dict[str, Synthesiser] = {
    "beep": _beep,
    "rise": _rise,
    "fall": _fall,
    "siren": _siren,
    "bell": _bell,
    "clicks": _clicks,
    "hiss": _hiss,
    "rumble": _rumble,
    "bark": _bark,
    "bird": _bird,
    "drum": _drum,
    "buzz": _buzz,
}

KINDS: tuple[str, ...] = tuple(_SYNTHESISERS)
"""The names of the kinds, in their canonical order."""


def synthesise(kind: str, duration_s: float, rng: np.random.Generator) -> Samples:
    """One occurrence of a kind, with a peak of 1, at 16 kHz.

    Args:
        kind: one of `KINDS`.
        duration_s: the length in seconds; short kinds (a bark) may end before it.
        rng: decides the pitch, timbre and course.

    Returns:
        At most `duration_s * 16000` samples, float32 in [-1, 1].
    """
    samples = _SYNTHESISERS[kind](duration_s, rng)
    return (samples / np.float32(np.abs(samples).max() + 1e-9)).astype(np.float32)
