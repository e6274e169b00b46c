"""Aligns a text-to-audio policy by CLAP-ranked preference optimization (CRPO, arXiv 2412.21037).

    python jobs/crpo.py                                 the embedded miniature, on this machine, in a few minutes
    ray job submit --working-dir . -- python jobs/crpo.py --config my.yaml

Each iteration: rollouts of a draw of prompts -> rewards -> preference pairs -> learner -> a new policy -> held-out
prompts. Departures from the published code: every sample has its own noise, what the reward hears is stored as the
latents that the learner reads, the reference is frozen whole, and ties make no pair.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jobs.config import RunConfig, load_config
from jobs.display import Display
from jobs.metrics import read_history
from tangoflux.cli import resumable, run_main

if TYPE_CHECKING:
    from jobs.preparation import Inputs
    from jobs.stages import Run
    from jobs.tensorboard_log import TensorboardLog


def main(argv: Sequence[str] | None = None) -> int:
    """Checks everything that can be checked first, then runs the iterations that the run directory lacks."""
    config = load_config(argv)
    # torch and Ray take seconds to import, which --help and a mistyped option need not wait for.
    from actors.run_lock import RunLock
    from jobs.preparation import prepare

    inputs = prepare(config)
    with RunLock(config.run_dir):
        run(config, inputs)
    return 0


def run(config: RunConfig, inputs: Inputs) -> None:
    """The run itself, in its directory, which is this process's alone."""
    from actors.policy_store import PolicyStore
    from jobs.cluster import open_pools, ray_session
    from jobs.placement import place_run
    from jobs.report import write_report
    from jobs.run_dir import open_run_dir
    from jobs.stages import Run

    directory = open_run_dir(config)
    base = PolicyStore(directory / "policies").publish(0, inputs.policy_dir)
    steps_before = len(read_history(directory / "metrics.jsonl").steps)
    with (
        resumable(f"go on with: python jobs/crpo.py --run-dir {directory} --resume"),
        Display(config.iterations) as display,
        _board(config, steps_before) as board,
    ):
        display.note(f"{inputs.plan}\n\nrun directory {directory}")
        with ray_session(config.rollouts, config.rewards, config.learner):
            display.note(place_run(config))
            with open_pools(config, base) as pools:
                mishaps = align(Run(config, inputs, pools, display, board))
        write_report(directory)
        summarise(config, mishaps, display)


def _board(config: RunConfig, steps_before: int) -> TensorboardLog:
    from jobs.tensorboard_log import TensorboardLog
    from jobs.wandb_log import WandbLog

    if config.wandb_project:
        return WandbLog(config.run_dir, steps_before, config.wandb_project, config.model_dump(mode="json"))
    return TensorboardLog(config.run_dir / "tensorboard", steps_before)


def align(run: Run) -> dict[str, int]:
    """The base policy's held-out figures, then every iteration; returns what went wrong and was mended."""
    started = time.monotonic()
    run.log_start([sys.executable, *sys.argv])
    if not run.is_finished(0):
        run.evaluate(0, {})
    for iteration in range(1, run.config.iterations + 1):
        if not run.is_finished(iteration):
            collected = run.collect(iteration)
            learnt = run.learn(iteration)
            run.evaluate(iteration, {**collected, **learnt})
    return run.log_end(time.monotonic() - started)


def summarise(config: RunConfig, mishaps: Mapping[str, int], display: Display) -> None:
    """The table of base against aligned, where to look and listen, and what died on the way."""
    iterations = read_history(config.run_dir / "metrics.jsonl").iterations
    aligned = iterations[-1]["heldout"] if len(iterations) > 1 else None
    paths = {
        "report": config.run_dir / "report.html",
        "audio": config.run_dir / "samples",
        "policy": config.run_dir / "policies" / f"v{iterations[-1]['policy_version']:04d}",
    }
    display.summary(iterations[0]["heldout"], aligned, paths)
    if any(mishaps.values()):
        words = [f"{name.replace('_', ' ')} {count}" for name, count in mishaps.items() if count]
        display.note(f"\ndied on the way: {', '.join(words)}")


if __name__ == "__main__":
    run_main(main)
