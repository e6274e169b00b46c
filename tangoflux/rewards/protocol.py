"""What every reward model is to the rest of the system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Reward(Protocol):
    """Scores waveforms against prompts. A class of your own needs these three and a constructor without arguments.

    Attributes:
        name: what rows and reports call it.
        checkpoint: which weights it has, so that scores of different ones are never mixed up.
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
            (n,) scores; NaN where there is none, which is never taken for a low score.
        """
        ...
