"""Scalars and audio for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch.utils.tensorboard import SummaryWriter

from jobs.reporting.trackers import Axis


class TensorboardTracker:
    """Writes event files to ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._writer = SummaryWriter(str(directory))

    def scalars(self, values: Mapping[str, float], axis: Axis, number: int) -> None:
        """See ``Tracker``."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, number)
        self._writer.flush()  # so that a live TensorBoard shows them

    def audio(self, tag: str, waveform: npt.NDArray[np.float32], sample_rate_hz: int, iteration: int) -> None:
        """See ``Tracker``."""
        self._writer.add_audio(tag, waveform, iteration, sample_rate=sample_rate_hz)

    def close(self, failed: bool) -> None:
        """See ``Tracker``."""
        self._writer.close()
