"""Options of `python jobs/train.py`."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator, model_validator

from actors.options.schema import REQUIRED, Options, option
from jobs.options.sections import LOCAL_PATH, CodecPoolOptions, LearnerOptions, Objective, local_path

DESCRIPTION = """\
Trains a policy on preference pairs, as an iteration of jobs/crpo.py does, and writes the new policy: a directory that
every --policy and --init-policy takes. The pairs are the shards that jobs/score.py or a run left (--preferences), or
your own (--pairs): a file of one JSON object a line with a prompt, the audio that was preferred and the audio that was
not, as in

  {"prompt": "a dog barks twice", "chosen": "takes/7.wav", "rejected": "takes/2.wav"}

Paths are relative to that file. Audio may be of any rate, mono or stereo (WAV, FLAC, OGG, MP3); latents of the policy's
own codec are .npy arrays (frames, channels). "duration_s" says how many seconds of both count, which are cut or
followed by silence (default: as long as the chosen one is); "id" names the pair."""

EXAMPLES = """\
examples:
  python jobs/train.py --preferences scored/a/preferences --output policies/a
  python jobs/train.py --preferences runs/x/preferences/i0001 --policy runs/x/policies/v0000 --output policies/b
  python jobs/train.py --pairs rated.jsonl --output policies/c --epochs 20
then:
  python jobs/crpo.py --init-policy policies/c
"""


class TrainJob(Options):
    """All options of the job."""

    output: Path = option(REQUIRED, "directory that gets the new policy", allowed=LOCAL_PATH)
    preferences: Path | None = option(
        None, "directory of preference shards: of jobs/score.py, or a run's preferences/i0001", allowed=LOCAL_PATH
    )
    pairs: Path | None = option(
        None, "your own pairs: .jsonl with prompt, chosen, rejected, duration_s, id", allowed=LOCAL_PATH
    )
    policy: str = option("miniature", "policy to train: a directory, a name or owner/name on the hub", min_length=1)
    objective: Objective = option("crpo", "crpo adds the winner's flow-matching loss to dpo_fm")
    seed: int = option(0, "seed of the learner's order and noise, and of the pairs held out", ge=0, lt=2**63)
    learner: LearnerOptions = LearnerOptions()
    codec: CodecPoolOptions = CodecPoolOptions()

    _local = field_validator("output", "preferences", "pairs")(local_path)

    @model_validator(mode="after")
    def _one_source(self) -> TrainJob:
        if (self.preferences is None) == (self.pairs is None):
            raise ValueError("give either --preferences, shards of pairs, or --pairs, a file of your own; see --help")
        return self
