"""Shows that a run survives the death of any of its processes, and that its data and policy stay the same.

python jobs/chaos.py                                      20 kills in 3 iterations of the miniature; takes minutes
python jobs/chaos.py --kills 30 --seed 7 --output runs/chaos
python jobs/chaos.py --kinds driver,learner --kills 6 --iterations 2
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from actors.pools.worker_slot import WorkerError
from jobs.benchmarks.chaos_cluster import KINDS, ChaosCluster
from jobs.benchmarks.chaos_results import Kill, Progress, differences, progress, table
from tangoflux.cli import EXIT_FAILED, run_main
from tangoflux.errors import ConfigError

SMALL = (
    *("--iterations", "3", "--prompts-per-iteration", "48", "--rollout-chunk-prompts", "4", "--batch-size", "8"),
    *("--heldout-num-prompts", "8", "--num-audio-samples", "2", "--checkpoint-every", "2", "--epochs", "2"),
)
"""Options of both runs: many small chunks, and many checkpoints."""

OF_CHUNKS = ("rollout", "reward", "writer", "node")
"""Kinds whose death may be charged to a chunk."""

CHUNKS_APART = 12
"""After two such kills in a stage so many chunks must be done before a third: more than are under way at once."""

PAUSE_S = (0.2, 3.0)
"""From a sign of life to the next kill, at random."""

LOOK_S = 0.1

CLOSE_S = 30.0
"""In which a run ends that is told to."""

EPILOG = """\
All other options are those of jobs/crpo.py, for both runs. The run is first made undisturbed, and then on a cluster of
three nodes on this machine, of which the head is spared. After each kill the next waits for a sign that the run goes
on: a chunk, an optimiser step, a policy or a measurement; what passes until then is the time lost. The driver is
started again with --resume, and a node is replaced. No chunk is hit more than twice."""


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the two runs, compares them, and prints what was killed."""
    arguments, options = _parser().parse_known_args(argv)
    _check(arguments)
    arguments.output.mkdir(parents=True)
    options = [*SMALL, "--rollout-workers", "2", *options]
    with closing(Driver(options, arguments.output / "undisturbed", {})) as calm:
        print(f"undisturbed run: {calm.wait():.0f} s", flush=True)
    placed = [*options, "--rollout-resources", "rollout=1"]
    with (
        ChaosCluster() as cluster,
        closing(Driver(placed, arguments.output / "disturbed", cluster.address)) as driver,
    ):
        kills, seconds = Disturbance(arguments, driver, cluster).run()
    print(f"disturbed run: {seconds:.0f} s\n\n{table(kills, driver.log)}\n")
    found = differences(calm.run_dir, driver.run_dir)
    print("\n".join(found) or "rollouts, preferences, policies and held-out scores equal the undisturbed run's")
    if len(kills) < arguments.kills:
        print(f"the run ended after {len(kills)} of {arguments.kills} kills: make it longer, with --iterations")
    return EXIT_FAILED if found or len(kills) < arguments.kills else 0


class Driver:
    """A run of jobs/crpo.py in a process of its own, whose output goes to a file."""

    def __init__(self, options: Sequence[str], run_dir: Path, environment: Mapping[str, str]) -> None:
        """Starts it."""
        self.run_dir, self.log = run_dir, run_dir.with_suffix(".log")
        self._options, self._environment = options, environment
        self._started = time.monotonic()
        self._process = self._start()

    def kill_and_resume(self) -> None:
        """SIGKILL, and the same command with --resume."""
        self._process.kill()
        self._process.wait()
        # A driver that died before it had made the run directory left nothing to resume.
        self._process = self._start(*(["--resume"] if (self.run_dir / "config.yaml").exists() else []))

    def close(self) -> None:
        """Ends it where it has not ended."""
        self._process.terminate()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def is_done(self) -> bool:
        """Whether the run has ended well.

        Raises:
            WorkerError: it has ended badly.
        """
        status = self._process.poll()
        if status:
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise WorkerError(f"the run ended with status {status}: {' '.join(last)} (all in {self.log})")
        return status == 0

    def wait(self) -> float:
        """Until the end; returns the seconds since the start."""
        while not self.is_done():
            time.sleep(LOOK_S)
        return time.monotonic() - self._started

    def _start(self, *more: str) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("crpo.py")
        command = [sys.executable, str(script), "--run-dir", str(self.run_dir), *self._options, *more]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **self._environment})


@dataclass
class Disturbance:
    """Kills one process after another, in an order that the seed decides, until the run is over."""

    arguments: argparse.Namespace
    driver: Driver
    cluster: ChaosCluster

    def run(self) -> tuple[list[Kill], float]:
        """Returns the kills, and the seconds of the whole run."""
        source, started = random.Random(self.arguments.seed), time.monotonic()
        kinds = self.arguments.kinds.split(",")
        plan = [kinds[index % len(kinds)] for index in range(self.arguments.kills)]
        source.shuffle(plan)
        kills: list[Kill] = []
        next_at = started
        while not self.driver.is_done():
            time.sleep(LOOK_S)
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
        """False where there is no such process now."""
        if kind == "driver":
            self.driver.kill_and_resume()
            return True
        return self.cluster.kill(kind, source)


def _may(kind: str, now: Progress, kills: Sequence[Kill]) -> bool:
    """Whether no chunk can be hit for the third time."""
    of_chunks = [kill.before for kill in kills if kill.kind in OF_CHUNKS]
    if kind not in OF_CHUNKS or len(of_chunks) < 2:
        return True
    return of_chunks[-2].stage != now.stage or now.chunks - of_chunks[-2].chunks >= CHUNKS_APART


def _check(arguments: argparse.Namespace) -> None:
    unknown = [kind for kind in arguments.kinds.split(",") if kind not in KINDS]
    if unknown:
        raise ConfigError(f"--kinds {unknown[0]} is none of {', '.join(KINDS)}")
    if arguments.kills < 1:
        raise ConfigError(f"--kills {arguments.kills}: give 1 or more")
    if arguments.output.exists():
        raise ConfigError(f"--output {arguments.output} is there already: choose another directory")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python jobs/chaos.py", description=__doc__, epilog=EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=20, help="[20]")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"what is killed [{','.join(KINDS)}]")
    parser.add_argument("--seed", type=int, default=0, help="of the kills, not of the run [0]")
    parser.add_argument("--output", type=Path, default=Path("runs/chaos"), help="holds both runs then [runs/chaos]")
    return parser


if __name__ == "__main__":
    run_main(main)
