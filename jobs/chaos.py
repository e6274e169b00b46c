"""Shows that a run survives the death of any of its processes, and that its data and policies stay the same.

python jobs/chaos.py                                      20 kills in 3 iterations of the miniature; takes minutes
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from actors.options.command_line import load_known_options
from jobs.options.chaos import COMMAND, ChaosOptions
from jobs.options.crpo import RunConfig, load_config
from jobs.stages.output_dir import FLAG, check_new
from jobs.stages.run_dir import check_writable
from tangoflux.cli import EXIT_FAILED, run_main

SMALL = (
    *("--iterations", "3", "--prompts-per-iteration", "48", "--rollout-chunk-prompts", "4", "--batch-size", "8"),
    *("--heldout-num-prompts", "8", "--num-audio-samples", "2", "--checkpoint-every", "2", "--epochs", "2"),
)
"""Options of both runs: many small chunks, and many checkpoints."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs both, compares them, and prints what was killed."""
    options, run_arguments = load_known_options(ChaosOptions, COMMAND, argv, RunConfig)
    run_arguments = [*SMALL, "--rollout-workers", "2", *run_arguments]
    load_config(run_arguments)
    check_writable(options.output, FLAG)
    check_new(options.output)
    # Ray takes seconds to import; --help and a mistyped option should not wait for it.
    from jobs.benchmarks.chaos_cluster import ChaosCluster
    from jobs.benchmarks.chaos_results import differences, table
    from jobs.benchmarks.chaos_run import Disturbance, Driver

    options.output.mkdir(parents=True, exist_ok=True)
    with closing(Driver(run_arguments, options.output / "undisturbed", {})) as calm:
        print(f"undisturbed run: {calm.wait():.0f} s", flush=True)
    placed = [*run_arguments, "--rollout-resources", "rollout=1"]
    with (
        ChaosCluster() as cluster,
        closing(Driver(placed, options.output / "disturbed", cluster.address)) as driver,
    ):
        kills, seconds = Disturbance(options, driver, cluster).run()
    print(f"disturbed run: {seconds:.0f} s\n\n{table(kills, driver.log)}\n")
    found = differences(calm.run_dir, driver.run_dir)
    print("\n".join(found) or "rollouts, preferences, policies and held-out scores equal the undisturbed run's")
    if len(kills) < options.kills:
        print(f"the run ended after {len(kills)} of {options.kills} kills: make it longer, with --iterations")
    return EXIT_FAILED if found or len(kills) < options.kills else 0


if __name__ == "__main__":
    run_main(main)
