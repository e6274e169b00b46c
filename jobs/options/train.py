"""Options of `python jobs/train.py`."""

from __future__ import annotations

from pydantic import model_validator

from actors.learner.objectives import make_objective
from actors.options.command_line import Command
from actors.options.schema import REQUIRED, Options, option
from jobs.options.learner import LearnerOptions
from jobs.options.sections import CodecPoolOptions, LocalPath, Objective

DESCRIPTION = """\
Trains a policy on preference pairs or on scored rollouts, as an iteration of jobs/crpo.py does, and writes the new
policy, a directory for --policy and --init-policy of other jobs. Both are shards that jobs/score.py or a run wrote
(--preferences, --rollouts); rollouts have all samples of each prompt, from which objectives such as dgpo learn. Or the
pairs are your own (--pairs): a file of one JSON object per line with a prompt, the preferred audio and the rejected
audio:

  {"prompt": "a dog barks twice", "chosen": "takes/7.wav", "rejected": "takes/2.wav"}

Paths are relative to that file. Audio may have any sample rate, mono or stereo (WAV, FLAC, OGG, MP3); latents of the
policy's codec are .npy arrays (frames, channels). "duration_s" is the length in seconds to which both are cut or padded
with silence (default: the length of the chosen one); "id" names the pair.

Run the same command again to resume."""

EXAMPLES = """\
examples:
  python jobs/train.py --preferences scored/a/preferences --output policies/a
  python jobs/train.py --preferences runs/x/preferences/i0001 --init-policy runs/x/policies/v0000 --output policies/b
  python jobs/train.py --rollouts runs/x/rollouts/i0001 --objective dgpo --output policies/d
  python jobs/train.py --pairs rated.jsonl --output policies/c --epochs 20
then:
  python jobs/crpo.py --init-policy policies/c
"""


class TrainJob(Options):
    """All options of the job."""

    output: LocalPath = option(REQUIRED, "directory to write the new policy to", may_change=True)
    preferences: LocalPath | None = option(
        None, "directory of preference shards: of jobs/score.py, or a run's preferences/i0001"
    )
    rollouts: LocalPath | None = option(
        None, "directory of scored rollouts: rollouts of jobs/score.py, or a run's rollouts/i0001"
    )
    pairs: LocalPath | None = option(None, "your own pairs: .jsonl with prompt, chosen, rejected, duration_s, id")
    init_policy: str = option(
        "miniature", "policy to train: a directory, a name or owner/name on the hub", min_length=1
    )
    objective: Objective = "crpo"
    seed: int = option(0, "seed of the data order, noise and the choice of held-out pairs", ge=0, lt=2**63)
    learner: LearnerOptions = LearnerOptions()
    codec: CodecPoolOptions = CodecPoolOptions()

    @model_validator(mode="after")
    def _check_consistency(self) -> TrainJob:
        make_objective(self.objective, self.learner.objective_options())
        given = [source for source in (self.preferences, self.rollouts, self.pairs) if source is not None]
        if len(given) != 1:
            raise ValueError(
                "give either --preferences or --rollouts, a directory of shards, or --pairs, your own file; see --help"
            )
        return self


COMMAND = Command("python jobs/train.py", DESCRIPTION, EXAMPLES)
