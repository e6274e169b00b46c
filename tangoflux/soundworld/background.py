"""Background noise of recordings from the web that their captions do not mention: a rumble or a hiss."""

from __future__ import annotations

import numpy as np

from tangoflux.soundworld.events import SAMPLE_RATE_HZ, Samples, synthesise

BACKGROUNDS = ("hiss", "rumble")
"""Kinds of sound that serve as a background."""

_LEVEL = (0.15, 0.4)


def draw_background(rng: np.random.Generator, share: float) -> str | None:
    """The kind of a background, or with probability ``1 - share`` none."""
    return BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))] if rng.uniform() < share else None


def mix_background(waveform: Samples, kind: str, rng: np.random.Generator) -> Samples:
    """The waveform with a background from start to end, whose peak is 15 to 40 hundredths of the waveform's."""
    background = synthesise(kind, len(waveform) / SAMPLE_RATE_HZ, rng)[: len(waveform)]
    mixed = waveform + np.float32(rng.uniform(*_LEVEL) * np.abs(waveform).max()) * background
    return (mixed / max(1.0, np.abs(mixed).max() / 0.97)).astype(np.float32)


def add_background(waveform: Samples, rng: np.random.Generator, share: float) -> Samples:
    """The waveform, with probability ``share`` with a background; see ``mix_background``."""
    kind = draw_background(rng, share)
    return waveform if kind is None else mix_background(waveform, kind, rng)
