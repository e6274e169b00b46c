from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jobs.reporting.wandb_log import WandbLog, check_wandb
from tangoflux.errors import ConfigError


def test_offline_the_same_scalars_and_audio_are_in_the_runs_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with WandbLog(tmp_path, 48, "a-project", {"seed": 0}) as board:
        board.step({"event": "step", "time": 1.0, "iteration": 2, "step": 0, "epoch": 0, "loss": 0.7})
        board.audio("samples/p1", np.full((2, 800), 0.5, np.float32), 16000, 2)
        board.iteration({"event": "iteration", "iteration": 2, "heldout": {"reward": {"mean": 0.3}}})
    [log] = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    names = (b"step/loss", b"step/number", b"iteration/heldout/reward/mean", b"samples/p1", b"audio-file")
    # W&B's own process closes the file some time after the run's end.
    until = time.monotonic() + 60
    while not all(name in log.read_bytes() for name in names):
        assert time.monotonic() < until, [name for name in names if name not in log.read_bytes()]
        time.sleep(0.1)
    assert len(list((tmp_path / "wandb").rglob("*.wav"))) == 1
    assert list((tmp_path / "tensorboard").iterdir()), "TensorBoard has it too"
    assert capfd.readouterr().out == ""


def test_without_the_package_the_option_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("jobs.reporting.wandb_log.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tangoflux\[wandb\]'"):
        check_wandb()
