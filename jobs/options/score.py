"""Options of `python jobs/score.py`."""

from __future__ import annotations

from actors.options.command_line import Command
from actors.options.schema import REQUIRED, Options, option
from jobs.options.sections import CodecPoolOptions, LocalPath, ScoringOptions

DESCRIPTION = """\
Decodes stored rollouts, scores each prompt's samples with a reward model, and writes the rollouts with their rewards
and, for each prompt, the best and the worst sample as a preference pair. Existing rewards are replaced. Run the same
command again to resume."""

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

    rollouts: LocalPath = option(REQUIRED, "directory of rollout shards: of jobs/rollout.py, or a run's rollouts/i0001")
    output: LocalPath = option(REQUIRED, "directory to write rollouts/ and preferences/ to", may_change=True)
    policy: str = option("miniature", "policy whose codec decodes the latents: a directory or a name", min_length=1)
    rewards: ScoringOptions = ScoringOptions()
    codec: CodecPoolOptions = CodecPoolOptions()


COMMAND = Command("python jobs/score.py", DESCRIPTION, EXAMPLES)
