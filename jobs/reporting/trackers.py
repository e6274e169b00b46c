"""Experiment trackers: the events of ``metrics.jsonl`` as scalars and audio, for any number of back ends at once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from actors.storage.metrics import Event

Axis = Literal["step", "iteration"]
"""What scalars are plotted against: optimiser steps of the whole run, or iterations."""

NOT_SCALARS = {"event", "time", "iteration", "step", "policy_version"}


class Tracker(Protocol):
    """A back end."""

    def scalars(self, values: Mapping[str, float], axis: Axis, number: int) -> None:
        """Logs ``{tag: value}`` at a position of an axis."""
        ...

    def audio(self, tag: str, waveform: npt.NDArray[np.float32], sample_rate_hz: int, iteration: int) -> None:
        """Logs a (samples,) waveform within [-1, 1]."""
        ...

    def close(self, failed: bool) -> None:
        """Flushes and closes; ``failed`` says that the run ended with an error."""
        ...


class Trackers:
    """Logs to several trackers; use it as a context manager, which closes them.

    Args:
        trackers: where to log.
        steps_before: optimiser steps that earlier starts of the run logged, so that a resumed run continues the axis.
    """

    def __init__(self, *trackers: Tracker, steps_before: int = 0) -> None:
        self._trackers = trackers
        self._steps = steps_before

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:  # one that fails to close does not keep the others open
            for tracker in self._trackers:
                stack.callback(partial(tracker.close, failed=kind is not None))

    def iteration(self, event: Event) -> None:
        """Logs all numbers of an "iteration" event over iterations."""
        self._log(event, "iteration", "iteration", event["iteration"])

    def step(self, event: Event) -> None:
        """Logs all numbers of a "step" event over the optimiser steps of the whole run."""
        self._steps += 1
        self._log(event, "step", "step", self._steps)

    def validation(self, event: Event) -> None:
        """Logs the losses of a "validation" event over the optimiser steps of the whole run."""
        self._log(event["loss"], "validation", "step", event["step"])

    def audio(self, tag: str, waveform: npt.NDArray[np.float32], sample_rate_hz: int, iteration: int) -> None:
        """Logs a (channels, samples) waveform mixed down to one channel, unless it is empty."""
        mono = np.clip(np.nan_to_num(waveform).mean(axis=0), -1.0, 1.0)
        for tracker in self._trackers if mono.size > 1 else ():
            tracker.audio(tag, mono, sample_rate_hz, iteration)

    def _log(self, values: Mapping[str, Any], prefix: str, axis: Axis, number: int) -> None:
        scalars = _scalars_of(values, prefix)
        for tracker in self._trackers:
            tracker.scalars(scalars, axis, number)


def _scalars_of(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """All numbers of an event, with nested names joined by slashes below ``prefix``."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _scalars_of(value, f"{prefix}/{key}")
        elif isinstance(value, int | float) and key not in NOT_SCALARS:
            found[f"{prefix}/{key}"] = float(value)
    return found
