"""Measures speed, this code next to the published code and what surrounds the model, and what alignment is worth.

python jobs/bench.py                    rollouts, training steps and single audios next to the published code's
python jobs/bench.py orchestration      what orchestration costs the driver of a run
python jobs/bench.py overlap            how far a rollout stage is hidden behind its sampling
python jobs/bench.py serve              the endpoint under load
python jobs/bench.py objectives RUNS    objectives on the same stored rollouts
python jobs/bench.py best-of RUNS       the best of N samples, before and after
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from actors.options.command_line import load_known_options, load_options
from jobs.options import bench
from jobs.options.crpo import RunConfig
from tangoflux.cli import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the measurement that the first argument names; without a name, that of speed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    measurements: dict[str, Callable[[Sequence[str]], None]] = {
        "orchestration": orchestration,
        "overlap": overlap,
        "serve": serve,
        "objectives": objectives,
        "best-of": best_of,
    }
    if arguments and arguments[0] in measurements:
        measurements[arguments[0]](arguments[1:])
    else:
        speed(arguments)
    return 0


# Each measurement is imported when it runs: torch and Ray take seconds to import, and Ray need not be installed for
# that of speed.


def speed(argv: Sequence[str]) -> None:
    """Rollouts, training steps and single audios, next to the published code's."""
    options = load_options(bench.SpeedOptions, bench.SPEED, argv)
    from jobs.benchmarks.speed.measure import run

    run(options)


def orchestration(argv: Sequence[str]) -> None:
    """What orchestration costs the driver of a run."""
    options = load_options(bench.OrchestrationOptions, bench.ORCHESTRATION, argv)
    from jobs.benchmarks.orchestration import run

    run(options)


def overlap(argv: Sequence[str]) -> None:
    """How far a rollout stage is hidden behind its sampling."""
    options, run_arguments = load_known_options(bench.OverlapOptions, bench.OVERLAP, argv, RunConfig)
    from jobs.benchmarks.overlap import run

    run(options, run_arguments)


def serve(argv: Sequence[str]) -> None:
    """The endpoint under load."""
    options = load_options(bench.LoadOptions, bench.LOAD, argv)
    from jobs.benchmarks.load import run

    run(options)


def objectives(argv: Sequence[str]) -> None:
    """Objectives on the same stored rollouts."""
    options = load_options(bench.ObjectivesOptions, bench.OBJECTIVES_COMMAND, argv)
    from jobs.benchmarks.alignment.objectives import run

    run(options)


def best_of(argv: Sequence[str]) -> None:
    """The best of N samples, before and after."""
    options = load_options(bench.BestOfOptions, bench.BEST_OF, argv)
    from jobs.benchmarks.alignment.best_of import run

    run(options)


if __name__ == "__main__":
    run_main(main)
