"""Small rewards for runs with random policies, given in options as ``tests.integration.rewards:Class``."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Loudness:
    """Prefers louder audio, which is enough to rank samples of a random policy."""

    name = "loudness"
    checkpoint = "none"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        return np.array([np.sqrt(np.mean(np.square(waveform, dtype=np.float64))) for waveform in waveforms])


class FailsForDogsAndBells(Loudness):
    """Raises for prompts with a dog and returns NaN for those with a bell."""

    name = "fails for dogs and bells"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        if "dog" in prompts[0]:
            raise ValueError("no dogs")
        scores = super().__call__(prompts, waveforms, sample_rate_hz)
        return np.full_like(scores, np.nan) if "bell" in prompts[0] else scores


class DeadlyFirst(Loudness):
    """Kills the worker that scores the first of the three prompts about a dog."""

    name = "deadly"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        if "dog barks then number 0" in prompts[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(prompts, waveforms, sample_rate_hz)


class Slow(Loudness):
    """Sleeps for 1 s a prompt, so that a run can be inspected and resized while it is live."""

    name = "slow"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        time.sleep(1.0)
        return super().__call__(prompts, waveforms, sample_rate_hz)
