from __future__ import annotations

import os
import subprocess
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


@pytest.mark.parametrize(("key", "said"), [(None, "no W&B account is logged in"), ("xyz", "WANDB_API_KEY invalid")])
def test_a_project_without_an_account_is_refused_unless_it_is_offline(
    tmp_path: Path, key: str | None, said: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path)} | ({"WANDB_API_KEY": key} if key else {})
    code = "from jobs.reporting.wandb_tracker import check_wandb; check_wandb()"
    for mode, refused in (("online", True), ("offline", False)):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | {"WANDB_MODE": mode}, capture_output=True, text=True
        )
        last = done.stderr.splitlines()[-1] if done.stderr else ""
        assert (f"ConfigError: --wandb-project: {said}" in last) == refused, done.stderr
