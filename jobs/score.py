"""Scoring alone: gives stored rollouts their rewards and makes preference pairs of them.

python jobs/score.py --rollouts rollouts/a --output scored/a --reward miniature-clap
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.options.command_line import load_options
from jobs.options.score import DESCRIPTION, EXAMPLES, ScoreJob
from tangoflux.cli import resumable, run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Checks what can be checked, scores the shards that are not scored yet, and pairs those not paired yet."""
    config = load_options(ScoreJob, argv, program="python jobs/score.py", description=DESCRIPTION, examples=EXAMPLES)
    # torch and Ray take seconds to import, which --help and a mistyped option need not wait for.
    from jobs.stages.score import run

    with resumable("the same command goes on where it stopped"):
        run(config)
    return 0


if __name__ == "__main__":
    run_main(main)
