"""Scoring alone: gives stored rollouts their rewards and makes preference pairs of them.

python jobs/score.py --rollouts rollouts/a --output scored/a --reward miniature-clap
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import field_validator

from actors.command_line import load_options
from actors.options import REQUIRED, Options, option
from jobs.config import LOCAL_PATH, CodecPoolOptions, ScoringOptions, local_path
from tangoflux.cli import resumable, run_main

DESCRIPTION = """\
Decodes stored rollouts, lets a reward model hear each prompt's samples, and writes the rollouts with their rewards and,
of every prompt, the best and the worst sample as a preference pair. Rewards that the rollouts have already are
replaced. The same command again does only what is missing."""

EXAMPLES = """\
examples:
  python jobs/score.py --rollouts rollouts/a --output scored/a
  python jobs/score.py --rollouts runs/x/rollouts/i0001 --output scored/judge --reward miniature-judge
  PYTHONPATH=. python jobs/score.py --rollouts rollouts/a --output scored/mine --reward my_rewards:Loudness
then:
  python jobs/train.py --preferences scored/a/preferences --output policies/a
"""


class ScoreJob(Options):
    """All options of the job."""

    rollouts: Path = option(
        REQUIRED, "directory of rollout shards: of jobs/rollout.py, or a run's rollouts/i0001", allowed=LOCAL_PATH
    )
    output: Path = option(
        REQUIRED, "directory that gets rollouts/ and preferences/", allowed=LOCAL_PATH, may_change=True
    )
    policy: str = option("miniature", "policy whose codec decodes the latents: a directory or a name", min_length=1)
    rewards: ScoringOptions = ScoringOptions()
    codec: CodecPoolOptions = CodecPoolOptions()

    _local = field_validator("rollouts", "output")(local_path)


def main(argv: Sequence[str] | None = None) -> int:
    """Checks what can be checked, scores the shards that are not scored yet, and pairs those not paired yet."""
    config = load_options(ScoreJob, argv, program="python jobs/score.py", description=DESCRIPTION, examples=EXAMPLES)
    # torch and Ray take seconds to import, which --help and a mistyped option need not wait for.
    from jobs.score_stage import run

    with resumable("the same command goes on where it stopped"):
        run(config)
    return 0


if __name__ == "__main__":
    run_main(main)
