"""Ctrl-C, SIGTERM and SIGKILL of a whole run: it ends at once, and --resume continues it without repeating a step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from jobs.crpo import main
from tangoflux.data.records import canonical_sha256
from tests.integration.test_crpo import REPOSITORY, events, options, prompts, table  # pyright: ignore

pytestmark = [pytest.mark.ray]

__all__ = ["prompts"]

LONG = ("--epochs", "40", "--checkpoint-every", "3")
"""80 optimiser steps, which leaves time to interrupt them."""


def start(policy: Path, prompts: Path, run_dir: Path, *more: str) -> subprocess.Popen[str]:
    """A run in a separate process."""
    command = [sys.executable, "jobs/crpo.py", *options(policy, prompts, run_dir, *LONG, *more)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell ignores Ctrl-C for the tests if it runs them in the background, and child processes inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(run: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 180
    while not happened():
        assert run.poll() is None and time.monotonic() < until, run.communicate()[0]
        time.sleep(0.05)


def end(run: subprocess.Popen[str], signum: signal.Signals) -> tuple[str, float, list[psutil.Process]]:
    """Sends the signal; returns the output, the seconds until the end, and child processes still alive 10 s later."""
    family = psutil.Process(run.pid).children(recursive=True)
    started = time.monotonic()
    run.send_signal(signum)
    output, _ = run.communicate(timeout=60)
    seconds = time.monotonic() - started
    _, left = psutil.wait_procs(family, timeout=10)
    return output, seconds, left


@pytest.mark.parametrize(
    ("signum", "status", "file"),
    [
        (signal.SIGINT, 130, "rollouts/i0001/part-00000.parquet"),
        pytest.param(signal.SIGTERM, 143, "learner/i0001/checkpoints/*/step-*", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "learner/i0001/checkpoints/*/step-*", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "policies/v0001", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_at_once_with_one_line_and_no_process_left(
    tmp_path: Path, tiny_policy_dir: Path, prompts: Path, signum: signal.Signals, status: int, file: str
) -> None:
    run_dir = tmp_path / "run"
    run = start(tiny_policy_dir, prompts, run_dir)
    wait_for(run, lambda: any(run_dir.glob(file)))
    output, seconds, left = end(run, signum)
    assert run.returncode == status, output
    assert f"interrupted; resume with: python jobs/crpo.py --run-dir {run_dir} --resume" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert seconds < 20
    assert left == []


@pytest.mark.slow
def test_resume_after_the_drivers_sigkill_logs_every_step_once(
    tmp_path: Path, tiny_policy_dir: Path, prompts: Path
) -> None:
    run_dir, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    run = start(tiny_policy_dir, prompts, run_dir)
    wait_for(run, lambda: any(run_dir.glob("learner/i0001/checkpoints/*/step-*/state.json")))
    end(run, signal.SIGKILL)
    before = [row["step"] for row in events(run_dir, "step")]
    assert main(["--run-dir", str(run_dir), "--resume"]) == 0
    assert [row["step"] for row in events(run_dir, "step")] == list(range(1, 81)), "every step once, in order"
    assert len(before) < 80, "the run was killed before its last step"
    assert main(options(tiny_policy_dir, prompts, undisturbed, *LONG)) == 0
    for part in ("rollouts", "preferences"):
        assert canonical_sha256(table(run_dir, part)) == canonical_sha256(table(undisturbed, part))
    first, second = (
        load_file(path / "policies" / "v0001" / "tangoflux.safetensors") for path in (run_dir, undisturbed)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not list(run_dir.glob("learner/*/checkpoints"))
