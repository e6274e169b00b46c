"""Rollouts alone: samples several audios of each prompt and stores their latents, for a later scoring or another use.

python jobs/rollout.py --output rollouts/a --prompts mine.txt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from pydantic import field_validator

from actors.reward import ScoredBatch, rollout_table
from actors.rollout import Chunk, rollout_chunks
from actors.unscored import UnscoredRolloutActor
from actors.writer import ShardWriter
from jobs.cluster import open_pool, ray_session, rollout_args
from jobs.command_line import load_options
from jobs.config import LOCAL_PATH, RolloutOptions, SamplingOptions, local_path
from jobs.display import Display
from jobs.options import REQUIRED, Options, option
from jobs.output_dir import check_output, open_output
from jobs.plan import ROW_BYTES, check_disk, read_model_facts
from jobs.preparation import load_bank
from jobs.samples import SampleFolder
from tangoflux.cli import run_main
from tangoflux.errors import ConfigError
from tangoflux.model import find_directory
from tangoflux.prompts import Prompt, draw_prompts
from tangoflux.records import rollout_schema

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

CONFIG_FILE = ".config.yaml"
"""The options, in the output directory; hidden, because readers of Parquet directories take every visible file."""

SOUND_WORLD_PROMPTS = 96

DISK_ADVICE = "choose another --output, or lower --num-prompts or --samples-per-prompt, or take --latents-dtype float16"


class RolloutJob(Options):
    """All options of the job."""

    output: Path = option(REQUIRED, "directory that gets the shards", allowed=LOCAL_PATH, may_change=True)
    policy: str = option("miniature", "policy: a directory, a name or owner/name on the hub", min_length=1)
    policy_version: int = option(0, "number of the policy that the rows carry", ge=0)
    prompts: Path | None = option(
        None,
        "prompts: .txt, one a line, or .jsonl with prompt, duration_s, id",
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


@dataclass(frozen=True)
class Inputs:
    """What the job works on; ``max_frames`` and ``channels`` are those of the latents."""

    policy_dir: Path
    prompts: list[Prompt]
    max_frames: int
    channels: int


def main(argv: Sequence[str] | None = None) -> int:
    """Checks what can be checked, then samples the chunks that no shard holds yet."""
    config = load_options(
        RolloutJob, argv, program="python jobs/rollout.py", description=DESCRIPTION, examples=EXAMPLES
    )
    check_output(config, config.output, config.output / CONFIG_FILE)
    inputs = read_inputs(config)
    shards = ShardWriter(config.output)
    chunks = rollout_chunks(
        inputs.prompts, config.iteration, config.seed, config.samples_per_prompt, config.rollouts.chunk_prompts
    )
    missing = [chunk for chunk in chunks if chunk.index not in shards.parts()]
    check_disk(bytes_of(config, inputs, missing), config.output, DISK_ADVICE)
    open_output(config, config.output, config.output / CONFIG_FILE)
    with Display() as display:
        display.note(f"{len(inputs.prompts)} prompts x {config.samples_per_prompt} samples by {config.policy}")
        if missing:
            with ray_session(config.rollouts):
                sample(config, inputs, missing, shards, display)
        rows = sum(shard.rows for shard in shards.shards().values())
        display.note(f"{rows} rollouts of {len(inputs.prompts)} prompts in {config.output}")
    return 0


def read_inputs(config: RolloutJob) -> Inputs:
    """Looks at the policy and reads the prompts.

    Raises:
        TangoFluxError: the policy or the prompts cannot be used.
    """
    policy_dir = find_directory(config.policy)
    facts = read_model_facts(policy_dir)
    wanted = config.num_prompts or (None if config.prompts else SOUND_WORLD_PROMPTS)
    bank = load_bank(config.prompts, config.sampling.duration_s, facts.max_duration_s)
    if wanted and wanted > len(bank):
        raise ConfigError(f"--num-prompts {wanted} is more than the {len(bank)} prompts of {config.prompts}")
    prompts = draw_prompts(bank, wanted or len(bank), config.seed, config.iteration)
    return Inputs(policy_dir, prompts, facts.audio_seq_len, facts.latent_channels)


def bytes_of(config: RolloutJob, inputs: Inputs, chunks: Sequence[Chunk]) -> int:
    """What the shards of the chunks take on disk; audio is small beside them."""
    number = 2 if config.rollouts.latents_dtype == "float16" else 4
    row = inputs.max_frames * inputs.channels * number + ROW_BYTES
    return sum(len(chunk.prompts) for chunk in chunks) * config.samples_per_prompt * row


def sample(config: RolloutJob, inputs: Inputs, chunks: Sequence[Chunk], shards: ShardWriter, display: Display) -> None:
    """Samples the chunks and stores each as a shard, in the order in which they finish."""
    schema = rollout_schema(inputs.max_frames, inputs.channels, config.rollouts.latents_dtype)
    listening = SampleFolder(config.audio) if config.audio else None
    args = rollout_args(inputs.policy_dir, config.sampling, config.rollouts, config.policy_version)
    with (
        display.stage(0, "rollouts", sum(len(chunk.prompts) for chunk in chunks) * config.samples_per_prompt) as stage,
        open_pool(UnscoredRolloutActor, args, config.rollouts, "rollout worker") as pool,
    ):
        for chunk, reference in pool.stream("sample_unscored", chunks, listening is not None):
            batch: ScoredBatch = ray.get(reference)
            if listening:
                write_audio(listening, chunk, batch)
            table = rollout_table(batch, schema)
            shards.write(chunk.index, table)
            stage.advance(len(table))


def write_audio(folder: SampleFolder, chunk: Chunk, batch: ScoredBatch) -> None:
    """Every sample of a chunk as ``<prompt id>-<sample index>.flac``."""
    rate = batch.rollouts.sample_rate_hz
    for prompt in chunk.prompts:
        for index, waveform in enumerate(batch.waveforms[prompt.id]):
            name = f"{prompt.id}-{index}"
            folder.write(chunk.iteration, name, prompt.text, prompt.duration_s, waveform, rate, {})


if __name__ == "__main__":
    run_main(main)
