"""Aligns a text-to-audio policy by CLAP-ranked preference optimization (CRPO, arXiv 2412.21037).

    python jobs/crpo.py                                 the embedded miniature, on this machine, in a few minutes
    ray job submit --working-dir . -- python jobs/crpo.py --config my.yaml

Each iteration: rollouts of a draw of prompts -> rewards -> preference pairs -> learner -> a new policy -> held-out
prompts. Departures from the published code: every sample has its own noise, what the reward hears is stored as the
latents that the learner reads, all of the reference is frozen, and ties make no pair.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actors.storage.metrics import read_history
from jobs.options.crpo import RunConfig, load_config
from jobs.reporting.display import Display
from tangoflux.cli import resumable, run_main

if TYPE_CHECKING:
    from jobs.reporting.trackers import Trackers
    from jobs.stages.iteration import Run
    from jobs.stages.preflight import Inputs
    from jobs.stages.run_storage import RunStorage


def main(argv: Sequence[str] | None = None) -> int:
    """Checks everything that can be checked early, then runs the iterations that are missing in the run directory."""
    config = load_config(argv)
    # torch and Ray take seconds to import, which --help and a mistyped option need not wait for.
    from actors.cluster.session import ray_session
    from jobs.capacity.placement import place_run
    from jobs.stages.preflight import run_preflight
    from jobs.stages.run_storage import open_run

    inputs = run_preflight(config)
    with Display(config.iterations) as display:
        display.note(f"{inputs.plan}\n\nrun directory {config.run_dir}")
        # First Ray: what keeps it from starting leaves no directory behind.
        with ray_session(config.rollouts, config.rewards, config.learner):
            display.note(place_run(config))
            with open_run(config.run_dir) as storage:
                run(config, inputs, storage, display)
    return 0


def run(config: RunConfig, inputs: Inputs, storage: RunStorage, display: Display) -> None:
    """The run itself, whose files this process alone writes."""
    from jobs.reporting.html.crpo_report import write_report
    from jobs.stages.iteration import Run
    from jobs.stages.pools import open_pools
    from jobs.stages.run_dir import check_same_prompts, check_same_rewards, open_run_dir

    directory = storage.local
    open_run_dir(config, directory)
    storage.push()
    storage.policies.publish(0, inputs.policy_dir)
    history = read_history(directory / "metrics.jsonl")
    check_same_prompts(config, history.run.get("prompts_sha256", {}))
    check_same_rewards(inputs.served, history.run.get("served_rewards", {}))
    with (
        resumable(f"resume with: python jobs/crpo.py --run-dir {shlex.quote(str(storage.root))} --resume"),
        _open_trackers(config, directory, len(history.steps)) as trackers,
    ):
        with open_pools(config, storage.policies.path(0), inputs.served) as pools:
            alignment = Run(config, storage, inputs, pools, display, trackers)
            failure_counts = align(alignment)
        write_report(directory)
        summarise(storage, alignment.result(), failure_counts, display)
    # After the block: TensorBoard's files are closed.
    storage.push()


def _open_trackers(config: RunConfig, directory: Path, steps_before: int) -> Trackers:
    from jobs.reporting.tensorboard_tracker import TensorboardTracker
    from jobs.reporting.trackers import Tracker, Trackers
    from jobs.reporting.wandb_tracker import WandbTracker

    trackers: list[Tracker] = [TensorboardTracker(directory / "tensorboard")]
    if config.wandb_project:
        trackers.append(WandbTracker(directory, config.wandb_project, config.model_dump(mode="json")))
    return Trackers(*trackers, steps_before=steps_before)


def align(run: Run) -> dict[str, int]:
    """The base policy's held-out figures, then every iteration; returns the counts of recovered failures."""
    started = time.monotonic()
    run.log_start([sys.executable, *sys.argv])
    run.drop_old()
    if not run.is_finished(0):
        run.evaluate(0, {})
    for iteration in range(1, run.config.iterations + 1):
        if not run.is_finished(iteration):
            collected = run.collect(iteration)
            learnt = run.learn(iteration)
            run.evaluate(iteration, {**collected, **learnt})
            if run.must_stop():
                break
    return run.log_end(time.monotonic() - started)


def summarise(storage: RunStorage, result: int, failure_counts: Mapping[str, int], display: Display) -> None:
    """The table of base against aligned, where to look and listen, and the failures it recovered from."""
    from jobs.reporting.figures import parting

    iterations = read_history(storage.local / "metrics.jsonl").iterations
    aligned = next(row["heldout"] for row in iterations if row["iteration"] == result) if result else None
    paths = {
        "report": storage.root / "report.html",
        "audio": storage.root / "samples",
        "policy": storage.policies.path(result),
    }
    display.summary(iterations[0]["heldout"], aligned, paths)
    if parted := parting(aligned or {}):
        display.note(f"\n{parted}", style="bold yellow")
    if any(failure_counts.values()):
        words = [f"{name.replace('_', ' ')} {count}" for name, count in failure_counts.items() if count]
        display.note(f"\nrecovered failures: {', '.join(words)}")


if __name__ == "__main__":
    run_main(main)
