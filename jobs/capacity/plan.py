"""Estimates of the disk and memory that a run needs, from its options and the policy's files."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from actors.cluster.address import cluster_address
from actors.storage.object_store import ObjectStorePath
from jobs.capacity.memory import Memory, machine_memory
from jobs.capacity.model_facts import ModelFacts
from jobs.options.crpo import RunConfig
from jobs.reporting.formatting import format_bytes
from jobs.reporting.tables import format_table
from tangoflux.errors import ResourceError

ROW_BYTES = 350
"""A stored rollout or pair without its latents, with a caption of usual length; measured."""

SHARD_BYTES = 16_000
"""A Parquet file without its rows; measured."""


@dataclass(frozen=True)
class Disk:
    """Bytes of a part of the run directory."""

    name: str
    once: int
    each_iteration: int
    iterations: int
    detail: str

    @property
    def total(self) -> int:
        """Bytes at the end of the run."""
        return self.once + self.each_iteration * self.iterations


@dataclass(frozen=True)
class Plan:
    """The disk and memory that a run needs; ``str`` returns a table."""

    disk: tuple[Disk, ...]
    memory: tuple[Memory, ...]

    @property
    def disk_bytes(self) -> int:
        """Bytes of the run directory at the end of the run."""
        return sum(part.total for part in self.disk)

    @property
    def memory_bytes(self) -> int:
        """Bytes of all processes together."""
        return sum(part.total for part in self.memory)

    def __str__(self) -> str:
        disk = [
            (part.name, format_bytes(part.each_iteration), format_bytes(part.total), part.detail) for part in self.disk
        ]
        rows = [("disk", "per iteration", "whole run", ""), *disk, ("", "", format_bytes(self.disk_bytes), "")]
        rows += [("memory", "each", "all", ""), *map(_row, self.memory), ("", "", format_bytes(self.memory_bytes), "")]
        return format_table(rows, left=(0, 3))


def make_plan(config: RunConfig, facts: ModelFacts) -> Plan:
    """The most that the run needs at any time."""
    return Plan(tuple(_disk(config, facts)), tuple(machine_memory(config, facts)))


def check_plan(plan: Plan, run_dir: Path | ObjectStorePath) -> None:
    """Checks that this machine has the disk and memory of the plan; in a cluster, only the disk.

    Raises:
        ResourceError: it has too little; names the needed and the available amount, and options that need less.
    """
    if isinstance(run_dir, Path):
        check_disk(
            max(0, plan.disk_bytes - _stored_bytes(run_dir)),
            run_dir,
            "choose another --run-dir, or lower --iterations, --prompts-per-iteration or --num-samples, or use "
            "--latents-dtype float16",
        )
    available = _available_memory()
    if plan.memory_bytes > available and not cluster_address():
        largest = max(plan.memory, key=lambda part: part.total)
        raise ResourceError(
            f"the run needs {format_bytes(plan.memory_bytes)} of memory, but {format_bytes(available)} are available; "
            f"the {largest.name} need {format_bytes(largest.total)} of it: lower {largest.options}"
        )


def check_disk(needed: int, directory: Path, advice: str) -> None:
    """Checks that ``needed`` bytes are free for a directory that may not exist yet.

    Raises:
        ResourceError: they are not; the message ends with ``advice``.
    """
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ResourceError(
            f"the run needs {format_bytes(needed)} of disk, but {format_bytes(free)} are free at {existing}: {advice}"
        )


def _disk(config: RunConfig, facts: ModelFacts) -> list[Disk]:
    prompts, samples = config.prompts_per_iteration, config.num_samples
    number = 2 if config.rollouts.latents_dtype == "float16" else 4
    latents = facts.audio_seq_len * facts.latent_channels * number
    collected = config.iterations if config.data == "online" else 1
    shards = math.ceil(prompts / config.rollouts.chunk_prompts) * SHARD_BYTES
    shape = f"{facts.audio_seq_len} frames x {facts.latent_channels} channels, {config.rollouts.latents_dtype}"
    audio = config.heldout.num_audio_samples * facts.max_duration_s * facts.sample_rate_hz * facts.audio_channels * 2
    trained = facts.trained_with(config.learner.lora_rank)
    version = 4 * trained + (0 if config.learner.lora_rank else _bytes_of(facts, facts.text_encoder))
    return [
        Disk(
            "rollouts",
            0,
            prompts * samples * (latents + ROW_BYTES) + shards,
            collected,
            f"{prompts * samples} x {shape}",
        ),
        Disk("preferences", 0, prompts * (2 * latents + ROW_BYTES) + shards, collected, f"{prompts} pairs of the same"),
        # A version shares the weights that alignment does not change with the version before it.
        Disk("policies", facts.file_bytes, version, config.iterations, f"{trained:,} trained parameters"),
        Disk(
            "learner",
            2 * 4 * trained * (4 if config.learner.ema_decay else 3),
            4 * trained,
            config.iterations,
            "weights; at most two checkpoints at a time",
        ),
        # As FLAC, and again in the TensorBoard log and in the report.
        Disk(
            "audio",
            round(3 * audio),
            round(3 * audio),
            config.iterations,
            f"{config.heldout.num_audio_samples} prompts",
        ),
    ]


def _bytes_of(facts: ModelFacts, parameters: int) -> int:
    """The bytes of some of the stored parameters."""
    stored = facts.trained + facts.text_encoder + facts.codec
    return round(facts.file_bytes * parameters / max(1, stored))


def _stored_bytes(directory: Path) -> int:
    """Bytes that a resumed run has written already; a file with several hard links counts once."""
    found = [path.stat() for path in directory.rglob("*") if path.is_file()]
    return sum({(status.st_dev, status.st_ino): status.st_size for status in found}.values())


def _available_memory() -> int:
    """Bytes available to new processes, also in a container whose limit is below the machine's memory."""
    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # The page cache counts as used, but is freed on demand.
        used = int((group / "memory.current").read_text()) - int(facts["inactive_file"])
    except (OSError, ValueError, KeyError):  # no container, or one without a limit ("max")
        return available
    return min(available, max(0, limit - used))


def _row(part: Memory) -> tuple[str, str, str, str]:
    return part.name, f"{part.processes} x {format_bytes(part.each)}", format_bytes(part.total), part.detail
