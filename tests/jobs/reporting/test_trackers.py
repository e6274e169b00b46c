from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from jobs.reporting.trackers import Trackers


class Recorder:
    """Keeps what it is sent."""

    def __init__(self, fails_to_close: bool = False) -> None:
        self.logged: list[tuple[Any, ...]] = []
        self.closed: list[bool] = []
        self._fails_to_close = fails_to_close

    def scalars(self, values: Mapping[str, float], axis: str, number: int) -> None:
        self.logged.append((dict(values), axis, number))

    def audio(self, tag: str, waveform: Any, sample_rate_hz: int, iteration: int) -> None:
        self.logged.append((tag, waveform.tolist(), sample_rate_hz, iteration))

    def close(self, failed: bool) -> None:
        self.closed.append(failed)
        if self._fails_to_close:
            raise OSError("full")


def test_every_tracker_gets_the_numbers_of_every_event() -> None:
    recorders = Recorder(), Recorder()
    with Trackers(*recorders, steps_before=48) as trackers:
        trackers.step({"event": "step", "time": 1.0, "iteration": 2, "step": 0, "epoch": 0, "loss": 0.7, "x": None})
        trackers.step({"event": "step", "time": 2.0, "iteration": 2, "step": 1, "loss": 0.6})
        trackers.validation({"event": "validation", "step": 7, "loss": {"mean": 0.5}})
        trackers.iteration({"event": "iteration", "iteration": 2, "heldout": {"reward": {"mean": 0.3, "se": None}}})
    for recorder in recorders:
        assert recorder.logged == [
            ({"step/epoch": 0.0, "step/loss": 0.7}, "step", 49),
            ({"step/loss": 0.6}, "step", 50),
            ({"validation/mean": 0.5}, "step", 7),
            ({"iteration/heldout/reward/mean": 0.3}, "iteration", 2),
        ]


def test_audio_is_one_channel_within_full_scale_and_empty_audio_is_left_out() -> None:
    recorder = Recorder()
    with Trackers(recorder) as trackers:
        trackers.audio("loud", np.array([[3.0, 0.5, np.nan], [3.0, -1.0, 0.0]], np.float32), 16000, 1)
        trackers.audio("empty", np.zeros((1, 0), np.float32), 16000, 1)
    assert recorder.logged == [("loud", [1.0, -0.25, 0.0], 16000, 1)]


def test_all_trackers_are_closed_although_one_fails_to_close() -> None:
    recorders = Recorder(), Recorder(fails_to_close=True), Recorder()
    with pytest.raises(OSError, match="full"), Trackers(*recorders):
        pass
    assert [recorder.closed for recorder in recorders] == [[False]] * 3


def test_a_run_that_ends_with_an_error_is_closed_as_failed() -> None:
    recorder = Recorder()
    with pytest.raises(KeyError), Trackers(recorder):
        raise KeyError("x")
    assert recorder.closed == [True]
