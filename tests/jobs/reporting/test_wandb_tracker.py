from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jobs.reporting.wandb_tracker import WandbTracker, check_wandb
from tangoflux.errors import ConfigError


def test_offline_scalars_and_audio_are_in_the_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = WandbTracker(tmp_path, "a-project", {"seed": 0})
    tracker.scalars({"step/loss": 0.7}, "step", 49)
    tracker.audio("samples/p1", np.full(800, 0.5, np.float32), 16000, 2)
    tracker.scalars({"iteration/heldout/reward/mean": 0.3}, "iteration", 2)
    tracker.close(failed=False)
    [log] = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    names = (b"step/loss", b"step/number", b"iteration/heldout/reward/mean", b"samples/p1", b"audio-file")
    # W&B's own process closes the file some time after the run's end.
    until = time.monotonic() + 60
    while not all(name in log.read_bytes() for name in names):
        assert time.monotonic() < until, [name for name in names if name not in log.read_bytes()]
        time.sleep(0.1)
    assert len(list((tmp_path / "wandb").rglob("*.wav"))) == 1
    assert capfd.readouterr().out == ""


def test_without_the_package_the_option_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("jobs.reporting.wandb_tracker.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tangoflux\[wandb\]'"):
        check_wandb()
