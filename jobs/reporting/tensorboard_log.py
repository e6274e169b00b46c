"""Scalars and audio of a run for TensorBoard.

The file is not called ``tensorboard.py``, which would hide the package of that name from a script beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.tensorboard import SummaryWriter

from actors.storage.metrics import Event

__all__ = ["TensorboardLog", "mono_of", "scalars_of"]

NOT_SCALARS = {"event", "time", "iteration", "step", "policy_version"}


class TensorboardLog:
    """Writes the events of ``metrics.jsonl`` as scalars, and samples as audio; use it as a context manager.

    Args:
        directory: where the event files go.
        steps_before: steps of the run before this process, so that a resumed run goes on at its place.
    """

    def __init__(self, directory: Path, steps_before: int = 0) -> None:
        self._writer = SummaryWriter(str(directory))
        self.steps = steps_before

    def __enter__(self) -> TensorboardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def iteration(self, event: Event) -> None:
        """All numbers of an "iteration" event, nested names joined by slashes, over iterations."""
        for name, value in scalars_of(event, "iteration"):
            self._writer.add_scalar(name, value, event["iteration"])
        self._writer.flush()

    def step(self, event: Event) -> None:
        """All numbers of a "step" event over the steps of the whole run."""
        self.steps += 1
        for name, value in scalars_of(event, "step"):
            self._writer.add_scalar(name, value, self.steps)

    def scalars(self, name: str, values: Mapping[str, Any], step: int) -> None:
        """Numbers by name, below ``name``, at a step of the whole run."""
        for tag, value in scalars_of(values, name):
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def audio(self, tag: str, waveform: npt.NDArray[np.float32], sample_rate_hz: int, iteration: int) -> None:
        """A (channels, samples) waveform, mixed down to one channel, which is all that TensorBoard plays."""
        mono = mono_of(waveform)
        if mono.size > 1:
            self._writer.add_audio(tag, mono, iteration, sample_rate=sample_rate_hz)


def mono_of(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A (channels, samples) waveform as one channel within full scale."""
    return np.clip(np.nan_to_num(waveform).mean(axis=0), -1.0, 1.0)


def scalars_of(values: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    """All numbers of an event, nested names joined by slashes below ``prefix``."""
    found: list[tuple[str, float]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += scalars_of(value, f"{prefix}/{key}")
        elif isinstance(value, int | float) and key not in NOT_SCALARS:
            found.append((f"{prefix}/{key}", float(value)))
    return found
