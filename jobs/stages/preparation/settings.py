"""The settings that prepared latents depend on: a preparation resumes only with the same ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.storage.atomic import atomic_write
from actors.workers.prepare import CodecFacts
from jobs.options.prepare import PrepareJob
from jobs.stages.output_dir import FLAG, check_new
from tangoflux.data.manifest import manifest_files
from tangoflux.errors import ConfigError
from tangoflux.model.adapter_files import base_directory
from tangoflux.model.checkpoint import read_json

SETTINGS_FILE = ".settings.json"
"""The settings, written at the start; ``PREPARED_FILE``, written at the end, contains them too."""

PREPARED_FILE = "prepared.json"


def settings_of(config: PrepareJob, policy_dir: Path, facts: CodecFacts) -> dict[str, Any]:
    """The settings that the latents depend on."""
    return {
        "manifest_sha256": _manifest_sha256(config.manifest),
        "format": config.format,
        "audio_dir": config.audio_dir,
        **codec_hashes(policy_dir),
        "latent_frames": facts.policy.latent_frames,
        "max_frames": facts.policy.audio_seq_len,
        "max_duration_s": facts.policy.max_duration,
        "channels": facts.codec.decoder_input_channels,
        "sample_rate_hz": facts.codec.sampling_rate,
        "latents_dtype": config.latents_dtype,
        "shard_clips": config.shard_clips,
        "batch_clips": config.batch_clips,
        "codec_threads": config.codec.threads,
    }


def codec_hashes(policy_dir: Path) -> dict[str, str | None]:
    """Hashes that identify a policy's codec."""
    policy_dir = base_directory(policy_dir)
    weights, config = policy_dir / "vae.safetensors", policy_dir / "vae_config.json"
    return {"codec_sha256": _sha256(weights), "codec_config_sha256": _sha256(config) if config.exists() else None}


def check_settings(output: Path, settings: Mapping[str, Any]) -> None:
    """Checks that the output directory is new or was started with the same settings.

    Raises:
        ConfigError: it holds something else, or other settings, which the error names.
    """
    if not (output / SETTINGS_FILE).is_file():
        return check_new(output)
    stored = read_json(output / SETTINGS_FILE)
    different = [
        f"{name} is {stored.get(name)!r} there and {value!r} now"
        for name, value in settings.items()
        if stored.get(name) != value
    ]
    if different:
        raise ConfigError(
            f"{FLAG} {output} was started with other settings: {'; '.join(different)}; choose another {FLAG}"
        )


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically."""
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _manifest_sha256(manifest: Path) -> str:
    hashes = list(map(_sha256, manifest_files(manifest)))
    return hashlib.sha256("".join(hashes).encode()).hexdigest() if manifest.is_dir() else hashes[0]


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
