"""The interface of all reward models."""

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
