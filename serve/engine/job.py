"""A request in the engine, and its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from serve.engine.policies import Resident
from tangoflux.in_flight import Row
from tangoflux.sampling import SampleRequest
from tangoflux.sampling_params import SamplingParams

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Timing:
    """Seconds that a request spent in the queue and in each stage."""

    queued: float
    sampling: float
    decoding: float
    ranking: float


@dataclass(frozen=True)
class Result:
    """The samples of a job.

    Attributes:
        waveforms: one per seed, (audio_channels, samples).
        rewards: one per seed, NaN where there is none; None unless the job is ranked.
    """

    waveforms: list[Waveform]
    rewards: list[float] | None
    timing: Timing


@dataclass(eq=False)
class Job:
    """A request in the engine.

    Attributes:
        ranked: whether its samples get rewards.
        exact: whether no other job shares a batch with it.
        on_step: called in the engine's thread with the number of finished steps.
        future: receives the result or the error.
        times: when it was submitted, and when each stage ended.
    """

    resident: Resident
    request: SampleRequest
    params: SamplingParams
    ranked: bool = False
    exact: bool = False
    on_step: Callable[[int], None] = lambda step: None
    future: Future[Result] = field(default_factory=Future[Result])
    rows: list[Row] = field(default_factory=list[Row])
    times: list[float] = field(default_factory=lambda: [time.monotonic()])

    def end_stage(self) -> None:
        """Records the time."""
        self.times.append(time.monotonic())

    def finish(self, waveforms: list[Waveform], rewards: list[float] | None) -> None:
        """Sets the result, unless the request was cancelled."""
        self.end_stage()
        timing = Timing(*(end - start for start, end in pairwise(self.times)))
        with suppress(InvalidStateError):
            self.future.set_result(Result(waveforms, rewards, timing))

    def fail(self, error: BaseException) -> None:
        """Sets the error, unless the request was cancelled."""
        # Others would end the event loop that waits for the result, or never reach it.
        if not isinstance(error, Exception) or isinstance(error, StopIteration):
            failure = RuntimeError(f"{type(error).__name__}: {error}")
            failure.__cause__ = error
            error = failure
        with suppress(InvalidStateError):
            self.future.set_exception(error)
