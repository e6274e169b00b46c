"""Samples for ``jobs/rollout.py``: chunks of prompts to shards of latents without rewards."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass
from pathlib import Path

from actors.cluster.session import ray_session
from actors.storage.shards import ShardWriter
from actors.workers.chunk import Chunk, rollout_chunks
from actors.workers.rollout import RolloutActor
from jobs.capacity.model_facts import read_model_facts
from jobs.capacity.plan import ROW_BYTES, check_disk
from jobs.options.rollout import SOUND_WORLD_PROMPTS, RolloutJob
from jobs.reporting.display import Display
from jobs.stages.output_dir import FLAG, check_output, open_output
from jobs.stages.pools import open_pool, rollout_args, writer_pool
from jobs.stages.preflight import load_bank
from jobs.stages.run_dir import check_writable
from tangoflux.data.prompts import Prompt, draw_prompts
from tangoflux.errors import ConfigError
from tangoflux.model.layout import find_directory

CONFIG_FILE = ".config.yaml"
"""The options, in the output directory; hidden, because readers of Parquet directories take every visible file."""

DISK_ADVICE = "choose another --output, or lower --num-prompts or --num-samples, or take --latents-dtype float16"


@dataclass(frozen=True)
class Inputs:
    """What the job works on; ``max_frames`` and ``channels`` are those of the latents."""

    policy_dir: Path
    prompts: list[Prompt]
    max_frames: int
    channels: int


def run(config: RolloutJob) -> None:
    """Checks what can be checked, then samples the chunks that no shard holds yet."""
    check_output(config, config.output, config.output / CONFIG_FILE)
    if config.audio:
        check_writable(config.audio, "--audio")
    inputs = read_inputs(config)
    shards = ShardWriter(config.output)
    chunks = rollout_chunks(
        inputs.prompts, config.iteration, config.seed, config.num_samples, config.rollouts.chunk_prompts
    )
    check_same_prompts(shards, chunks)
    done = shards.parts()
    missing = [chunk for chunk in chunks if chunk.index not in done]
    check_disk(bytes_of(config, inputs, missing), config.output, DISK_ADVICE)
    with (
        Display() as display,
        ray_session(config.rollouts) if missing else nullcontext(),
        open_output(config, config.output, config.output / CONFIG_FILE),
    ):
        display.note(f"{len(inputs.prompts)} prompts x {config.num_samples} samples by {config.policy}")
        if missing:
            sample(config, inputs, missing, display)
        rows = sum(shard.rows for shard in shards.shards().values())
        display.note(f"{rows} rollouts of {len(inputs.prompts)} prompts in {config.output}")


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
        raise ConfigError(
            f"--num-prompts {wanted} is more than the {len(bank)} prompts of {config.prompts or 'the sound world'}"
        )
    prompts = draw_prompts(bank, wanted or len(bank), config.seed, config.iteration)
    return Inputs(policy_dir, prompts, facts.audio_seq_len, facts.latent_channels)


def check_same_prompts(shards: ShardWriter, chunks: Sequence[Chunk]) -> None:
    """Checks that the shards that exist are those of the chunks.

    Raises:
        ConfigError: they have other prompts.
    """
    wanted = {chunk.index: {astuple(prompt) for prompt in chunk.prompts} for chunk in chunks}
    for part, rows in shards.tables(["prompt_id", "prompt", "duration_s"]):
        if set(zip(*rows.to_pydict().values(), strict=True)) != wanted.get(part):
            raise ConfigError(
                f"{FLAG} {shards.directory} has rollouts of other prompts: restore the file of --prompts, which was "
                f"edited since, or choose another {FLAG}"
            )


def bytes_of(config: RolloutJob, inputs: Inputs, chunks: Sequence[Chunk]) -> int:
    """What the shards of the chunks take on disk; audio is small beside them."""
    number = 2 if config.rollouts.latents_dtype == "float16" else 4
    row = inputs.max_frames * inputs.channels * number + ROW_BYTES
    return sum(len(chunk.prompts) for chunk in chunks) * config.num_samples * row


def sample(config: RolloutJob, inputs: Inputs, chunks: Sequence[Chunk], display: Display) -> None:
    """Samples the chunks; a writer stores each as a shard, in the order in which they finish."""
    args = rollout_args(inputs.policy_dir, config.sampling, config.rollouts, config.policy_version)
    audio = config.audio.resolve() if config.audio else None
    with (
        display.stage(0, "rollouts", sum(len(chunk.prompts) for chunk in chunks) * config.num_samples) as stage,
        open_pool(RolloutActor, args, config.rollouts, "rollout worker") as rollouts,
        writer_pool(config.output) as writer,
    ):
        sampled = rollouts.stream("sample", chunks)
        for _, rows in writer.stream("write_unscored", sampled, config.output.resolve(), audio).values():
            stage.advance(rows)
