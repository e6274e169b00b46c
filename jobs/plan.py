"""What a run will need of disk and memory, from its options and the policy's files, before anything is loaded."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from jobs.config import RunConfig
from jobs.model_facts import ModelFacts
from tangoflux.conditioning import TRAINING_MAX_TOKENS
from tangoflux.errors import ResourceError

ROW_BYTES = 350
"""What a rollout or a pair takes on disk beside its latents, with a caption of usual length; measured."""

SHARD_BYTES = 16_000
"""What a Parquet file takes beside its rows; measured."""

PROCESS_BYTES = 600_000_000
"""What a worker process has of its own once it has imported torch, Ray and the models' libraries; measured."""

RAY_BYTES = 800_000_000
"""Ray's own processes and the job's; measured on one machine."""

TRAINING_FLOATS = 23
"""Numbers kept for the backward pass per row, token, block and unit of width; measured on three sizes."""

SAMPLING_FLOATS = 12
"""The same of one block without a backward pass: the widest moment is the single block's attention beside its MLP."""

IN_FLIGHT = 2
"""Chunks of a rollout worker that the object store holds at once."""


@dataclass(frozen=True)
class Disk:
    """Bytes that a part of the run directory takes."""

    name: str
    once: int
    each_iteration: int
    iterations: int
    detail: str

    @property
    def total(self) -> int:
        """Of the whole run."""
        return self.once + self.each_iteration * self.iterations


@dataclass(frozen=True)
class Memory:
    """Bytes of this machine's memory that processes of a kind take."""

    name: str
    processes: int
    each: int
    detail: str
    options: str

    @property
    def total(self) -> int:
        """Of all its processes."""
        return self.processes * self.each


@dataclass(frozen=True)
class Plan:
    """What a run will need; as text, a table."""

    disk: tuple[Disk, ...]
    memory: tuple[Memory, ...]

    @property
    def disk_bytes(self) -> int:
        """Of the whole run directory at the end."""
        return sum(part.total for part in self.disk)

    @property
    def memory_bytes(self) -> int:
        """Of all processes together."""
        return sum(part.total for part in self.memory)

    def __str__(self) -> str:
        disk = [(part.name, in_words(part.each_iteration), in_words(part.total), part.detail) for part in self.disk]
        memory = [
            (part.name, f"{part.processes} x {in_words(part.each)}", in_words(part.total), part.detail)
            for part in self.memory
        ]
        return _table(
            [
                ("disk", "an iteration", "whole run", ""),
                *disk,
                ("", "", in_words(self.disk_bytes), ""),
                ("memory", "each", "all", ""),
                *memory,
                ("", "", in_words(self.memory_bytes), ""),
            ]
        )


def make_plan(config: RunConfig, facts: ModelFacts) -> Plan:
    """What the run will need at most, from its start to its end."""
    return Plan(disk=tuple(_disk(config, facts)), memory=tuple(_memory(config, facts)))


def check_plan(plan: Plan, run_dir: Path) -> None:
    """Whether this machine has what the plan needs; in a cluster of several, only the disk is looked at.

    Raises:
        ResourceError: it has not; says what is needed, what is there, and which options need less.
    """
    check_disk(
        max(0, plan.disk_bytes - _stored_bytes(run_dir)),
        run_dir,
        "choose another --run-dir, or lower --iterations, --prompts-per-iteration or --samples-per-prompt, or take "
        "--latents-dtype float16",
    )
    available = _available_memory()
    if plan.memory_bytes > available and "RAY_ADDRESS" not in os.environ:
        largest = max(plan.memory, key=lambda part: part.total)
        raise ResourceError(
            f"the run needs {in_words(plan.memory_bytes)} of memory, but {in_words(available)} are available; the "
            f"{largest.name} need {in_words(largest.total)} of it: lower {largest.options}"
        )


def check_disk(needed: int, directory: Path, advice: str) -> None:
    """Whether there is room for ``needed`` bytes in a directory that may not be there yet.

    Raises:
        ResourceError: there is not; ends with ``advice``.
    """
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ResourceError(
            f"the run needs {in_words(needed)} of disk, but {in_words(free)} are free at {place}: {advice}"
        )


def in_words(size: float) -> str:
    """A number of bytes as people write it, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def _disk(config: RunConfig, facts: ModelFacts) -> list[Disk]:
    prompts, samples = config.prompts_per_iteration, config.samples_per_prompt
    number = 2 if config.rollouts.latents_dtype == "float16" else 4
    latents = facts.audio_seq_len * facts.latent_channels * number
    collected = config.iterations if config.data == "online" else 1
    shards = math.ceil(prompts / config.rollouts.chunk_prompts) * SHARD_BYTES
    shape = f"{facts.audio_seq_len} frames x {facts.latent_channels} channels, {config.rollouts.latents_dtype}"
    audio = config.heldout.listening * facts.max_duration_s * facts.sample_rate_hz * facts.audio_channels * 2
    version = 4 * facts.trained + _bytes_of(facts, facts.text_encoder)
    return [
        Disk(
            "rollouts",
            0,
            prompts * samples * (latents + ROW_BYTES) + shards,
            collected,
            f"{prompts * samples} x {shape}",
        ),
        Disk("preferences", 0, prompts * (2 * latents + ROW_BYTES) + shards, collected, f"{prompts} pairs of the same"),
        # A version shares what alignment does not change with the one before it.
        Disk("policies", facts.file_bytes, version, config.iterations, f"{facts.trained:,} trained parameters"),
        Disk("learner", 0, 4 * facts.trained, config.iterations, "its weights, and a line a step"),
        # As FLAC, and once more in the TensorBoard log and the report.
        Disk("audio", round(3 * audio), round(3 * audio), config.iterations, f"{config.heldout.listening} prompts"),
    ]


def _memory(config: RunConfig, facts: ModelFacts) -> list[Memory]:
    rollouts, rewards, learner = config.rollouts, config.rewards, config.learner
    return [
        Memory(
            "rollout workers",
            rollouts.workers,
            PROCESS_BYTES + (0 if rollouts.num_gpus else _rollout_bytes(config, facts)),
            f"policy and codec, {rollouts.chunk_prompts * config.samples_per_prompt} rows at a time",
            "--rollout-workers, --rollout-chunk-prompts or --samples-per-prompt",
        ),
        Memory("reward workers", rewards.workers, PROCESS_BYTES, "without what their models take", "--reward-workers"),
        Memory(
            "learner ranks",
            learner.workers,
            PROCESS_BYTES + (0 if learner.num_gpus else _learner_bytes(config, facts)),
            f"policy, reference, optimiser (ZeRO {learner.zero_stage}), {_pairs_at_once(config)} pairs at a time",
            "--micro-batch-size or --learner-workers, or take --precision bf16 or --activation-checkpointing true",
        ),
        Memory("job and Ray", 1, RAY_BYTES + _stored_objects(config, facts), "chunks under way", "--rollout-workers"),
    ]


def _rollout_bytes(config: RunConfig, facts: ModelFacts) -> int:
    rows = config.rollouts.chunk_prompts * config.samples_per_prompt
    guided = rows * (2 if config.sampling.guidance_scale > 1 else 1)
    weights = facts.trained + facts.text_encoder + facts.codec
    return 4 * (weights + guided * _tokens(facts) * facts.width * SAMPLING_FLOATS)


def _learner_bytes(config: RunConfig, facts: ModelFacts) -> int:
    """A rank's share: what ``actors.learner_worker`` holds at its fullest, the end of an optimiser step."""
    learner = config.learner
    number = 2 if learner.precision == "bf16" else 4
    shards = learner.workers if learner.zero_stage >= 1 else 1
    gradient_shards = learner.workers if learner.zero_stage >= 2 else 1
    policy_and_reference = 2 * number * (facts.trained + facts.text_encoder)
    masters_and_moments = 4 * facts.trained + 12 * facts.trained / shards
    gradients_and_bucket = 4 * facts.trained / gradient_shards + 4 * facts.trained
    average = 4 * facts.trained if learner.ema_decay else 0
    rows = 2 * _pairs_at_once(config)
    # With checkpointing a block keeps its input alone, but for the one that the backward pass is at.
    floats = facts.blocks + TRAINING_FLOATS if learner.activation_checkpointing else facts.blocks * TRAINING_FLOATS
    activations = number * rows * _tokens(facts) * facts.width * floats
    return round(policy_and_reference + masters_and_moments + gradients_and_bucket + average + activations)


def _pairs_at_once(config: RunConfig) -> int:
    return min(config.learner.micro_batch_size, math.ceil(config.learner.batch_size / config.learner.workers))


def _stored_objects(config: RunConfig, facts: ModelFacts) -> int:
    """What Ray's object store holds: the policy's weights, chunks under way, and the learner's pairs."""
    latents = 4 * facts.audio_seq_len * facts.latent_channels
    waveform = 4 * facts.max_duration_s * facts.sample_rate_hz * facts.audio_channels
    rows = config.rollouts.chunk_prompts * config.samples_per_prompt
    chunks = IN_FLIGHT * (config.rollouts.workers + config.rewards.workers)
    pairs = 2 * config.prompts_per_iteration * latents
    return round(4 * facts.trained + chunks * rows * (latents + waveform) + pairs)


def _tokens(facts: ModelFacts) -> int:
    return facts.audio_seq_len + TRAINING_MAX_TOKENS + 1


def _bytes_of(facts: ModelFacts, parameters: int) -> int:
    """The bytes of some of the stored parameters."""
    stored = facts.trained + facts.text_encoder + facts.codec
    return round(facts.file_bytes * parameters / max(1, stored))


def _stored_bytes(directory: Path) -> int:
    """What a run that is resumed has written already; a file with several names counts once."""
    found = [path.stat() for path in directory.rglob("*") if path.is_file()]
    return sum({(status.st_dev, status.st_ino): status.st_size for status in found}.values())


def _available_memory() -> int:
    """Bytes that new processes can have, also in a container whose limit is below the machine's memory."""
    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # Cached files count as used, but go when memory is asked for.
        used = int((group / "memory.current").read_text()) - int(facts["inactive_file"])
    except (OSError, ValueError, KeyError):  # no container, or one without a limit ("max")
        return available
    return min(available, max(0, limit - used))


def _table(rows: Sequence[tuple[str, str, str, str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = (
        f"{name:<{widths[0]}}  {each:>{widths[1]}}  {total:>{widths[2]}}  {detail}".rstrip()
        for name, each, total, detail in rows
    )
    return "\n".join(lines)
