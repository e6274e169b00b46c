"""Rollouts alone: samples several audios of each prompt and stores their latents, for a later scoring or another use.

python jobs/rollout.py --output rollouts/a --prompts mine.txt
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.options.command_line import load_options
from jobs.options.rollout import COMMAND, RolloutJob
from tangoflux.cli import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Checks what can be checked, then samples the chunks that no shard holds yet."""
    config = load_options(RolloutJob, COMMAND, argv)
    # torch and Ray take seconds to import; --help and a mistyped option should not wait for them.
    from jobs.stages.rollout import run

    run(config)
    return 0


if __name__ == "__main__":
    run_main(main)
