"""Options of `python jobs/rollout.py`."""

from __future__ import annotations

from actors.options.command_line import Command
from actors.options.schema import REQUIRED, Options, option
from jobs.options.sections import LocalPath, RolloutOptions, SamplingOptions

DESCRIPTION = """\
Samples several audios of each prompt with a policy, as an iteration of jobs/crpo.py does, and stores their latents as
Parquet shards without rewards: one shard per --rollout-chunk-prompts prompts, one row per sample. Run the same command
again to resume. With the seed and iteration of a run it reproduces that iteration's rollouts."""

EXAMPLES = """\
examples:
  python jobs/rollout.py --output rollouts/a                               96 prompts of the sound world
  python jobs/rollout.py --output rollouts/b --prompts mine.txt --policy runs/x/policies/v0003
  python jobs/rollout.py --output rollouts/c --prompts mine.txt --audio listen    FLAC files too
then:
  python jobs/score.py --rollouts rollouts/a --output scored/a             rewards and preference pairs
"""

SOUND_WORLD_PROMPTS = 96


class RolloutJob(Options):
    """All options of the job."""

    output: LocalPath = option(REQUIRED, "directory to write the shards to", may_change=True)
    policy: str = option("miniature", "policy that samples: a directory, a name or owner/name on the hub", min_length=1)
    policy_version: int = option(0, "policy version to record in the rows", ge=0)
    prompts: LocalPath | None = option(
        None,
        "prompts: .txt, one a line, or .jsonl or .csv with prompt, duration_s, id",
        default_text="the sound world's",
    )
    num_prompts: int | None = option(
        None,
        "number of prompts to draw from them, as an iteration does",
        unit="prompts",
        default_text=f"all of a file, {SOUND_WORLD_PROMPTS} of the sound world's",
        ge=1,
    )
    num_samples: int = option(5, "audios sampled for each prompt", unit="samples", ge=1, le=1000)
    seed: int = option(0, "seed of the prompts drawn and all noise", ge=0, lt=2**63)
    iteration: int = option(
        1, "iteration to record in the rows; the prompts drawn and the noise depend on it", ge=0, le=9999
    )
    audio: LocalPath | None = option(None, "directory to write every sample to as FLAC, too", may_change=True)
    sampling: SamplingOptions = SamplingOptions()
    rollouts: RolloutOptions = RolloutOptions()


COMMAND = Command("python jobs/rollout.py", DESCRIPTION, EXAMPLES)
