"""Options of `python jobs/score.py`."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator

from actors.options.schema import REQUIRED, Options, option
from jobs.options.sections import LOCAL_PATH, CodecPoolOptions, ScoringOptions, local_path

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
