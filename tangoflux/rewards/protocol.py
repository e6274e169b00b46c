"""The interfaces of reward models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Reward(Protocol):
    """Scores waveforms against prompts. Your own class needs these members and a constructor without arguments.

    Attributes:
        name: its name in rows and reports.
        checkpoint: identifies its weights, so that scores of different weights are never mixed.
    """

    name: str
    checkpoint: str

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        """Scores of n waveforms, higher is better.

        Args:
            prompts: n prompts.
            waveforms: n arrays (audio_channels, samples) in [-1, 1].
            sample_rate_hz: of all waveforms.

        Returns:
            (n,) scores; NaN if there is none, which never counts as a low score.
        """
        ...


@runtime_checkable
class Grader(Reward, Protocol):
    """A reward model that also says what is right and what is wrong about a waveform, for held-out prompts.

    Attributes:
        aspects: the names of what it grades, such as ``recall``.
    """

    aspects: tuple[str, ...]

    def grade(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> list[dict[str, float]]:
        """For each waveform its aspects by name, in [0, 1]; NaN where an aspect does not apply. See ``Reward``."""
        ...
