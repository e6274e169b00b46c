"""Scoring alone: gives stored rollouts their rewards and makes preference pairs of them.

python jobs/score.py --rollouts rollouts/a --output scored/a --reward miniature-clap
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.options.command_line import load_options
from jobs.options.score import COMMAND, ScoreJob
from tangoflux.cli import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Checks what can be checked, scores the shards that are not scored yet, and pairs those not paired yet."""
    config = load_options(ScoreJob, COMMAND, argv)
    # torch and Ray take seconds to import; --help and a mistyped option should not wait for them.
    from jobs.stages.score import run

    run(config)
    return 0


if __name__ == "__main__":
    run_main(main)
