"""Options of `python jobs/rollout.py`."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator

from actors.options.schema import REQUIRED, Options, option
from jobs.options.sections import LOCAL_PATH, RolloutOptions, SamplingOptions, local_path

DESCRIPTION = """\
Samples several audios of each prompt with a policy, as an iteration of jobs/crpo.py does, and stores their latents as
Parquet shards without rewards: a shard for every --rollout-chunk-prompts prompts, a row for every sample. The same
command again does only what is missing. With the seed and iteration of a run it gives that iteration's rollouts."""

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

    output: Path = option(REQUIRED, "directory that gets the shards", allowed=LOCAL_PATH, may_change=True)
    policy: str = option("miniature", "policy: a directory, a name or owner/name on the hub", min_length=1)
    policy_version: int = option(0, "number of the policy that the rows carry", ge=0)
    prompts: Path | None = option(
        None,
        "prompts: .txt, one a line, or .jsonl or .csv with prompt, duration_s, id",
        default_text="the sound world's",
        allowed=LOCAL_PATH,
    )
    num_prompts: int | None = option(
        None,
        "prompts drawn from them, as an iteration does",
        unit="prompts",
        default_text=f"all of a file, {SOUND_WORLD_PROMPTS} of the sound world's",
        ge=1,
    )
    samples_per_prompt: int = option(5, "audios sampled for each prompt", unit="samples", ge=1, le=1000)
    seed: int = option(0, "seed of the draw and of all noise", ge=0, lt=2**63)
    iteration: int = option(1, "number that the rows carry, on which draw and noise depend too", ge=0, le=9999)
    audio: Path | None = option(
        None, "directory that also gets every sample as FLAC", allowed=LOCAL_PATH, may_change=True
    )
    sampling: SamplingOptions = SamplingOptions()
    rollouts: RolloutOptions = RolloutOptions()

    _local = field_validator("output", "prompts", "audio")(local_path)
