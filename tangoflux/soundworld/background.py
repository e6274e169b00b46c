"""Background noise of recordings from the web that their captions do not mention: a rumble or a hiss."""

from __future__ import annotations

import numpy as np

from tangoflux.soundworld.events import SAMPLE_RATE_HZ, Samples, synthesise

BACKGROUNDS = ("hiss", "rumble")
"""Kinds of sound that serve as a background."""

_LEVEL = (0.15, 0.4)


def add_background(waveform: Samples, rng: np.random.Generator, share: float) -> Samples:
    """The waveform, with probability ``share`` with a background from start to end.

    The background's peak is 15 to 40 hundredths of the waveform's.
    """
    if rng.uniform() >= share:
        return waveform
    kind = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    background = synthesise(kind, len(waveform) / SAMPLE_RATE_HZ, rng)[: len(waveform)]
    mixed = waveform + np.float32(rng.uniform(*_LEVEL) * np.abs(waveform).max()) * background
    return (mixed / max(1.0, np.abs(mixed).max() / 0.97)).astype(np.float32)
