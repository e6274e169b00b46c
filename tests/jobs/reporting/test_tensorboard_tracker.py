from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.reporting.tensorboard_tracker import TensorboardTracker


def test_scalars_and_audio_are_in_the_event_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = TensorboardTracker(tmp_path)
    tracker.scalars({"step/loss": 0.5, "step/margin": 0.25}, "step", 49)
    tracker.audio("p000001", np.full(800, 0.5, np.float32), 16000, 1)
    before_close = EventAccumulator(str(tmp_path)).Reload()
    tracker.close(failed=False)
    assert [(row.step, row.value) for row in before_close.Scalars("step/loss")] == [(49, 0.5)]
    log = EventAccumulator(str(tmp_path)).Reload()
    assert log.Tags()["scalars"] == ["step/loss", "step/margin"]
    assert log.Audio("p000001")[0].sample_rate == 16000
    assert capsys.readouterr().out == ""
