from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.reporting.tensorboard_log import TensorboardLog


def test_events_become_scalars_over_iterations_and_over_the_steps_of_the_whole_run(tmp_path: Path) -> None:
    with TensorboardLog(tmp_path, steps_before=48) as board:
        board.step({"event": "step", "time": 1.0, "iteration": 2, "step": 0, "epoch": 0, "loss": 0.7, "margin": None})
        board.step({"event": "step", "time": 2.0, "iteration": 2, "step": 1, "epoch": 0, "loss": 0.6})
        heldout = {"reward": {"mean": 0.3, "se": None}}
        board.iteration({"event": "iteration", "iteration": 2, "heldout": heldout, "seconds": {"learner": 9}})
    log = EventAccumulator(str(tmp_path)).Reload()
    tags = log.Tags()["scalars"]
    assert isinstance(tags, list)
    assert set(tags) == {"step/epoch", "step/loss", "iteration/heldout/reward/mean", "iteration/seconds/learner"}
    assert [(row.step, round(row.value, 3)) for row in log.Scalars("step/loss")] == [(49, 0.7), (50, 0.6)]
    assert [(row.step, row.value) for row in log.Scalars("iteration/seconds/learner")] == [(2, 9.0)]


def test_audio_is_one_channel_within_full_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TensorboardLog(tmp_path) as board:
        board.audio("p000001", np.full((2, 800), 3.0, np.float32), 16000, 1)
        board.audio("empty", np.zeros((1, 0), np.float32), 16000, 1)
    log = EventAccumulator(str(tmp_path)).Reload()
    assert log.Tags()["audio"] == ["p000001"]
    assert log.Audio("p000001")[0].sample_rate == 16000
    assert capsys.readouterr().out == ""
