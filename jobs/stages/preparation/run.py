"""The work of ``jobs/prepare.py``: encodes the clips of a manifest into shards of latents."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.cluster.session import ray_session
from actors.storage.run_lock import RunLock
from actors.storage.shards import ShardWriter
from actors.workers.prepare import DECODING_CPUS, EXTRA_COLUMNS, CodecFacts, Encoding, encoded_clips
from jobs.capacity.plan import ROW_BYTES, SHARD_BYTES, check_disk
from jobs.options.prepare import PrepareJob
from jobs.reporting.display import Display
from jobs.reporting.formatting import format_bytes, format_seconds
from jobs.stages.output_dir import FLAG, RESUME
from jobs.stages.preparation.quarantine import Quarantine
from jobs.stages.preparation.settings import PREPARED_FILE, SETTINGS_FILE, check_settings, settings_of, write_json
from jobs.stages.run_dir import check_writable
from tangoflux.cli import resumable
from tangoflux.data.manifest import Clip
from tangoflux.data.published_sets import load_manifest
from tangoflux.errors import DataError
from tangoflux.model.autoencoder import Autoencoder, AutoencoderConfig
from tangoflux.model.checkpoint import read_json
from tangoflux.model.layout import find_directory
from tangoflux.model.policy import PolicyConfig

ROUNDING_S = 0.05
"""Manifests round lengths."""

DISK_ADVICE = "choose another --output, or use --latents-dtype float16"


@dataclass(frozen=True)
class Inputs:
    """What the job works on: the clips, grouped into shards, and the settings that the latents depend on."""

    policy_dir: Path
    facts: CodecFacts
    shards: list[list[tuple[int, Clip]]]
    settings: dict[str, Any]

    @property
    def count(self) -> int:
        """Number of clips in the manifest."""
        return sum(map(len, self.shards))


@dataclass(frozen=True)
class Decoding:
    """The least that decoding needs in addition to the codec workers."""

    workers: int = 1
    num_cpus: float = DECODING_CPUS
    num_gpus: float = 0


def run(config: PrepareJob) -> None:
    """Checks the input, then encodes the clips of the missing shards."""
    check_writable(config.output, FLAG)
    RunLock(config.output).check_free()
    inputs = read_inputs(config)
    check_settings(config.output, inputs.settings)
    shards = ShardWriter(config.output / "latents")
    missing = sorted(set(range(len(inputs.shards))) - shards.parts())
    check_disk(bytes_of(inputs, missing), config.output, DISK_ADVICE)
    with (
        Display() as display,
        ray_session(config.codec, Decoding()) if missing else nullcontext(),
        resumable(RESUME),
        RunLock(config.output),
    ):
        write_json(config.output / SETTINGS_FILE, inputs.settings)
        quarantine = Quarantine(config.output / "quarantine.jsonl", shards.parts())
        display.note(f"{inputs.count} clips of {config.manifest} for the codec of {config.policy}")
        if missing:
            prepare(config, inputs, missing, shards, quarantine, display)
        quarantine.check(inputs.count, inputs.count, config.max_quarantined_share)
        quarantine.sort()
        prepared = finish(config.output, inputs.settings, shards, quarantine)
        shorter = count_shorter(inputs, shards)
        display.note(summary(config.output, prepared, shorter, display.seconds.get(0, {})))


def read_inputs(config: PrepareJob) -> Inputs:
    """Reads the manifest and checks the codec.

    Raises:
        TangoFluxError: manifest or codec cannot be used, or too many audio files are missing.
    """
    policy_dir = find_directory(config.policy)
    facts = CodecFacts(
        PolicyConfig.from_dict(read_json(policy_dir / "config.json")), AutoencoderConfig.read(policy_dir)
    )
    clips = list(enumerate(load_manifest(config.manifest, config.audio_dir, config.format)))
    check_files(config, [clip for _, clip in clips])
    # Better to fail here than in every worker.
    Autoencoder.load(policy_dir)
    size = config.shard_clips
    shards = [clips[start : start + size] for start in range(0, len(clips), size)]
    return Inputs(policy_dir, facts, shards, settings_of(config, policy_dir, facts))


def check_files(config: PrepareJob, clips: Sequence[Clip]) -> None:
    """Checks that enough clips can be used and their local files exist, so that a mistake is reported at once.

    Raises:
        DataError: more cannot be used, or are missing, than may be quarantined.
    """
    most = config.max_quarantined_share * len(clips)
    if len(unusable := [clip for clip in clips if clip.problem]) > most:
        first = unusable[0]
        raise DataError(
            f"{len(unusable)} of the {len(clips)} clips of {config.manifest} cannot be used, such as {first.id}: "
            f"{first.problem and first.problem[1]}; correct them, or raise --max-quarantined-share "
            f"{config.max_quarantined_share:g}"
        )
    local = [clip for clip in clips if not clip.embedded and "://" not in clip.location]
    missing = [clip for clip in local if not os.path.exists(clip.location)]
    if len(missing) > most:
        raise DataError(
            f"{len(missing)} of the {len(clips)} audio files that {config.manifest} names are missing, such as "
            f"{missing[0].location}; give their directory with --audio-dir, or raise --max-quarantined-share "
            f"{config.max_quarantined_share:g}"
        )


def bytes_of(inputs: Inputs, parts: Sequence[int]) -> int:
    """Disk space of the shards ``parts``."""
    number = 2 if inputs.settings["latents_dtype"] == "float16" else 4
    row = 2 * number * inputs.settings["max_frames"] * inputs.settings["channels"] + ROW_BYTES
    return sum(len(inputs.shards[part]) for part in parts) * row + len(parts) * SHARD_BYTES


def prepare(
    config: PrepareJob,
    inputs: Inputs,
    parts: Sequence[int],
    shards: ShardWriter,
    quarantine: Quarantine,
    display: Display,
) -> None:
    """Encodes the clips of the shards ``parts`` and writes each shard as soon as its clips are done.

    Raises:
        DataError: the share of quarantined clips is too large.
    """
    waiting: dict[int, list[pa.Table]] = {part: [] for part in parts}
    done = inputs.count - sum(len(inputs.shards[part]) for part in parts)
    quarantine.check(done, inputs.count, config.max_quarantined_share)
    with display.stage(0, "preparing", inputs.count, "clips") as stage:
        stage.skip(done)
        wanted = [inputs.shards[part] for part in parts]
        for table in encoded_clips(wanted, inputs.policy_dir, inputs.facts, encoding_of(config)):
            for part, rows in by_part(table, config.shard_clips):
                waiting[part].append(rows)
                if sum(map(len, waiting[part])) == len(inputs.shards[part]):
                    write(part, pa.concat_tables(waiting.pop(part)), shards, quarantine)
                    done += len(inputs.shards[part])
                    quarantine.check(done, inputs.count, config.max_quarantined_share)
            stage.advance(len(table), quarantined=len(quarantine.rows))


def encoding_of(config: PrepareJob) -> Encoding:
    """The options in the workers' form."""
    codec = config.codec
    return Encoding(
        codec.workers, codec.num_cpus, codec.num_gpus, codec.threads, config.batch_clips, config.latents_dtype
    )


def by_part(table: pa.Table, shard_clips: int) -> list[tuple[int, pa.Table]]:
    """Splits encoded clips by shard."""
    parts = [row // shard_clips for row in table["row"].to_pylist()]
    return [(part, table.filter(pa.array([other == part for other in parts]))) for part in sorted(set(parts))]


def write(part: int, table: pa.Table, shards: ShardWriter, quarantine: Quarantine) -> None:
    """Writes a shard in the manifest's order, after the rows of its quarantined clips."""
    table = table.sort_by("row")
    is_usable = [reason is None for reason in table["reason"].to_pylist()]
    bad = table.filter(pa.array([not usable for usable in is_usable]))
    bad = bad.select(["id", "source", "reason", "detail", "row"])
    quarantine.add([{**row, "part": part} for row in bad.to_pylist()])
    usable = table.filter(pa.array(is_usable))
    shards.write(part, usable.drop_columns([name for name, _ in EXTRA_COLUMNS]))


def finish(output: Path, settings: Mapping[str, Any], shards: ShardWriter, quarantine: Quarantine) -> dict[str, Any]:
    """Writes ``prepared.json`` and returns its content.

    Raises:
        DataError: every clip is quarantined.
    """
    durations = shards.read(["duration_s"])["duration_s"].to_numpy()
    if not len(durations):
        raise DataError(f"none of the clips can be used, see {quarantine.file}; fix them and choose another {FLAG}")
    counts = {"clips": len(durations), "hours": float(durations.sum()) / 3600, "quarantined": dict(quarantine.reasons)}
    prepared = {**settings, **counts}
    write_json(output / PREPARED_FILE, prepared)
    return prepared


def count_shorter(inputs: Inputs, shards: ShardWriter) -> int:
    """Number of clips that were used although their files end before the manifest says."""
    asked = {clip.id: clip.duration_s for shard in inputs.shards for _, clip in shard if clip.duration_s}
    longest = inputs.facts.policy.max_duration
    rows = shards.read(["id", "duration_s"]).to_pylist()
    return sum(row["duration_s"] < min(longest, asked.get(row["id"], 0.0)) - ROUNDING_S for row in rows)


def summary(output: Path, prepared: Mapping[str, Any], shorter: int, spent: Mapping[str, float]) -> str:
    """The results, and where to find them."""
    bad: Mapping[str, int] = prepared["quarantined"]
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    pace = "".join(f" · {format_seconds(seconds)}" for seconds in spent.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in bad.items()) or "none"
    return (
        f"{prepared['clips']} clips, {prepared['hours']:.2f} h of audio · {format_bytes(size)}{pace}\n"
        f"quarantined: {reasons}\n"
        + (f"used although their files are shorter than the manifest says: {shorter}\n" if shorter else "")
        + "\n"
        f"latents     {output / 'latents'}\n"
        f"quarantine  {output / 'quarantine.jsonl'}"
    )
