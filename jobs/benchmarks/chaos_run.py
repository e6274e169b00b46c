"""A CRPO run whose processes are killed one after the other, as a seed decides."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.pools.worker_slot import WorkerError
from jobs.benchmarks.chaos_cluster import ChaosCluster
from jobs.benchmarks.chaos_results import Kill, Progress, progress
from jobs.options.chaos import ChaosOptions

CHUNK_KINDS = ("rollout", "reward", "writer", "node")
"""Kinds whose death may count as a failure of a chunk."""

MIN_CHUNKS_APART = 12
"""Chunks that must be finished after two such kills in a stage before a third: more than are in flight."""

PAUSE_S = (0.2, 3.0)
"""Range of the random pause between progress and the next kill."""

POLL_S = 0.1

CLOSE_TIMEOUT_S = 30.0
"""How long a run may take to end after SIGTERM."""


class Driver:
    """A run of jobs/crpo.py in a separate process, whose output goes to a file."""

    def __init__(self, options: Sequence[str], run_dir: Path, environment: Mapping[str, str]) -> None:
        """Starts the run."""
        self.run_dir, self.log = run_dir, run_dir.with_suffix(".log")
        self._options, self._environment = options, environment
        self._started = time.monotonic()
        self._process = self._start()

    def kill_and_resume(self) -> None:
        """Sends SIGKILL and starts the same command with --resume."""
        self._process.kill()
        self._process.wait()
        # A driver killed before it created the run directory left nothing to resume.
        self._process = self._start(*(["--resume"] if (self.run_dir / "config.yaml").exists() else []))

    def close(self) -> None:
        """Ends the run if it is still running."""
        self._process.terminate()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def is_done(self) -> bool:
        """Whether the run has finished.

        Raises:
            WorkerError: it failed.
        """
        status = self._process.poll()
        if status:
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise WorkerError(f"the run exited with status {status}: {' '.join(last)} (see {self.log})")
        return status == 0

    def wait(self) -> float:
        """Waits for the end; returns the seconds since the start."""
        while not self.is_done():
            time.sleep(POLL_S)
        return time.monotonic() - self._started

    def _start(self, *more: str) -> subprocess.Popen[bytes]:
        script = Path(__file__).parents[1] / "crpo.py"
        command = [sys.executable, str(script), "--run-dir", str(self.run_dir), *self._options, *more]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **self._environment})


@dataclass
class Disturbance:
    """Kills one process after another, in an order that the seed decides, until the run ends."""

    options: ChaosOptions
    driver: Driver
    cluster: ChaosCluster

    def run(self) -> tuple[list[Kill], float]:
        """Returns the kills and the duration of the run in seconds."""
        source, started = random.Random(self.options.kill_seed), time.monotonic()
        kinds = self.options.kinds
        plan = [kinds[index % len(kinds)] for index in range(self.options.kills)]
        source.shuffle(plan)
        kills: list[Kill] = []
        next_at = started
        while not self.driver.is_done():
            time.sleep(POLL_S)
            now = progress(self.driver.run_dir)
            if kills and kills[-1].lost_s is None:
                if now.total > kills[-1].before.total:
                    kills[-1].lost_s = time.monotonic() - kills[-1].at
                    next_at = time.monotonic() + source.uniform(*PAUSE_S)
            elif time.monotonic() >= next_at:
                kind = next((kind for kind in plan if _may(kind, now, kills) and self._kill(kind, source)), None)
                if kind:
                    plan.remove(kind)
                    kills.append(Kill(kind, now, time.monotonic()))
                    print(f"{time.monotonic() - started:6.1f} s  {now.stage}: {kind} killed", flush=True)
        return kills, time.monotonic() - started

    def _kill(self, kind: str, source: random.Random) -> bool:
        """Returns False if no such process exists now."""
        if kind == "driver":
            self.driver.kill_and_resume()
            return True
        return self.cluster.kill(kind, source)


def _may(kind: str, now: Progress, kills: Sequence[Kill]) -> bool:
    """Whether no chunk can be hit for a third time."""
    chunk_kills = [kill.before for kill in kills if kill.kind in CHUNK_KINDS]
    if kind not in CHUNK_KINDS or len(chunk_kills) < 2:
        return True
    return chunk_kills[-2].stage != now.stage or now.chunks - chunk_kills[-2].chunks >= MIN_CHUNKS_APART
