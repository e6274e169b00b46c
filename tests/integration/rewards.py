"""Small rewards for runs with random policies, named in options as ``tests.integration.rewards:Class``."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Loudness:
    """Louder is better, which is enough to rank what a random policy samples."""

    name = "loudness"
    checkpoint = "none"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        return np.array([np.sqrt(np.mean(np.square(waveform, dtype=np.float64))) for waveform in waveforms])


class FailsForDogs(Loudness):
    """Raises for some prompts and gives NaN for others."""

    name = "fails for dogs"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        if "dog" in prompts[0]:
            raise ValueError("no dogs")
        scores = super().__call__(prompts, waveforms, sample_rate_hz)
        return np.full_like(scores, np.nan) if "bell" in prompts[0] else scores


class DeadlyFirst(Loudness):
    """Ends the worker that hears a dog in the first of three prompts about one."""

    name = "deadly"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        if "dog barks then number 0" in prompts[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(prompts, waveforms, sample_rate_hz)


class Slow(Loudness):
    """Takes its time, so that a run can be looked at."""

    name = "slow"

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        time.sleep(1.0)
        return super().__call__(prompts, waveforms, sample_rate_hz)
