"""Runs whose pools are resized, and whose chunks kill their workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from actors.pools.worker_slot import WorkerError
from actors.storage.shards import ShardWriter
from actors.workers.chunk import Chunk
from jobs.crpo import main
from jobs.stages.failed_chunks import FILE, FailedChunks
from tangoflux.data.prompts import Prompt
from tests.integration.test_crpo import REPOSITORY, before_close, events, options, prompts, table  # pyright: ignore

pytestmark = [pytest.mark.ray, pytest.mark.slow]

__all__ = ["prompts"]


def test_a_live_run_is_resized_from_another_process_and_its_data_are_complete(
    tmp_path: Path, tiny_policy_dir: Path, prompts: Path
) -> None:
    run_dir = tmp_path / "run"
    slow = ("--reward", "tests.integration.rewards:Slow", "--rollout-num-cpus", "0.5", "--rollout-workers", "1")
    crpo = [sys.executable, "jobs/crpo.py", *options(tiny_policy_dir, prompts, run_dir, *slow)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    run = subprocess.Popen(
        crpo, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        until = time.monotonic() + 120
        while not (run_dir / "rollouts" / "i0001" / "part-00000.parquet").exists():
            assert run.poll() is None and time.monotonic() < until, run.communicate()[0]
            time.sleep(0.5)
        sizes = ["--rollout-workers", "2", "--reward-workers", "1:2"]
        scale = [sys.executable, "jobs/scale.py", "--run-dir", str(run_dir), *sizes]
        scaled = subprocess.run(scale, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
        assert scaled.returncode == 0, scaled.stderr
        sizes = {row.split()[0]: row.split()[1] for row in scaled.stdout.splitlines()}
        assert sizes == {"pool": "size", "rollouts": "2", "rewards": "1:2"}, scaled.stderr
        output, _ = run.communicate(timeout=180)
    finally:
        run.kill()
    assert run.returncode == 0, output
    assert len(table(run_dir, "rollouts")) == 8 * 3
    assert not (run_dir / "pools.json").exists()


def test_an_iteration_continues_without_a_chunk_that_kills_its_workers(
    ray_session: None, tmp_path: Path, tiny_policy_dir: Path, prompts: Path
) -> None:
    run_dir = tmp_path / "run"
    deadly = ("--reward", "tests.integration.rewards:DeadlyFirst", "--judge", "none", "--max-dropped-share", "0.5")
    heldout = tmp_path / "heldout.txt"
    heldout.write_text("a dog barks then number 0\n" + "".join(f"a cat meows {number} times\n" for number in range(5)))
    several = ("--prompts-per-iteration", "12", "--heldout-prompts", str(heldout), "--heldout-num-prompts", "6")
    assert main(options(tiny_policy_dir, prompts, run_dir, *deadly, *several)) == 0
    [row] = json.loads((run_dir / "rollouts" / "i0001" / FILE).read_text())
    assert "a dog barks then number 0" in [prompt["prompt"] for prompt in row["prompts"]]
    assert "was given up after 3 workers" in row["reason"]
    [event] = [event for event in events(run_dir, "iteration") if event["iteration"] == 1]
    assert event["pairs"]["dropped"] == 3  # type: ignore[index]
    assert ShardWriter(run_dir / "rollouts" / "i0001").parts() == set(range(4)) - {row["part"]}
    for iteration in (0, 1):
        scores = ShardWriter(run_dir / "heldout").read_part(iteration)["reward"].to_numpy()
        assert np.isnan(scores).sum() == 3, "the chunk of three with the dog"
    assert event["heldout"]["reward"]["mean"] is not None  # type: ignore[index]


def test_a_failed_chunk_is_not_retried_once_a_policy_was_trained_without_it(
    ray_session: None, tmp_path: Path, tiny_policy_dir: Path, prompts: Path
) -> None:
    run_dir = tmp_path / "run"
    some = options(tiny_policy_dir, prompts, run_dir, "--judge", "none", "--max-dropped-share", "0.5")
    assert main(some) == 0
    rollouts = run_dir / "rollouts" / "i0001"
    record = FailedChunks(rollouts)
    chunk = Chunk(2, 1, (Prompt(id="p", text="a prompt", duration_s=0.5),), ((0, 1, 2),))
    record.add(chunk, WorkerError("it killed its workers"))
    (rollouts / "part-00002.parquet").unlink()
    metrics = run_dir / "metrics.jsonl"
    metrics.write_text(before_close(metrics.read_text(), 1))
    assert main(["--run-dir", str(run_dir), "--resume"]) == 0
    assert ShardWriter(rollouts).parts() == {0, 1}
    assert record.parts() == {2}
