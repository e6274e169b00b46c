"""Reward models that need no weights, for ``load_reward("tests.actors.fake_rewards:Class")``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Loudness:
    """The root mean square of a waveform, in an order that only a deterministic sampler repeats."""

    name = "loudness"
    checkpoint = "none"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        return np.array([np.sqrt(np.mean(np.square(waveform, dtype=np.float64))) for waveform in waveforms])


class Peak(Loudness):
    """The largest absolute value of a waveform."""

    name = "peak"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        return np.array([np.abs(waveform).max() for waveform in waveforms], np.float64)


class Moody(Loudness):
    """Fails in every way that a reward model can, as the prompt asks for."""

    name = "moody"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        rewards = super().__call__(prompts, waveforms, sample_rate_hz)
        if "raise" in prompts[0]:
            raise FileNotFoundError("no /home/me/weights.bin at 0x7f3a, really\nsecond line")
        if "shape" in prompts[0]:
            return rewards[:1]
        if "nan" in prompts[0]:
            rewards[1] = np.nan
        if "infinite" in prompts[0]:
            rewards[0] = np.inf
        if "write" in prompts[0]:
            waveforms[0][:] = 0
        return rewards
